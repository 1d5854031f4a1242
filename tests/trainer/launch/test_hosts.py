"""Host files, the comparison of hosts, and arguments that pass through shells."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from trainer import options
from trainer.command_line import decode, encode
from trainer.errors import UserError
from trainer.launch import operator
from trainer.launch.hosts import check, hostfile, probe, ssh
from trainer.launch.hosts.probe import HostReport


def test_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two of them\n\nnode-1.example slots=8  # eight GPUs\nnode-2 slots=4\n")
    assert hostfile.read(file) == [hostfile.Host("node-1.example", 8), hostfile.Host("node-2", 4)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("n1\n", "line 1: found 'n1', expected NAME slots=N"),
        ("n1 slots=2\nn2 slots=x\n", "line 2: found 'n2 slots=x', expected NAME slots=N"),
        ("n1 slots=0\n", "line 1: found 'n1 slots=0', expected NAME slots=N"),
        ("n1 slots=1\nn1 slots=1\n", "line 2: n1 is there twice"),
        ("# none\n", "names no host: expected lines NAME slots=N"),
        ("$(touch x) slots=1\n", "line 1: found '$(touch x) slots=1', expected NAME slots=N"),
    ],
)
def test_malformed_hostfile(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        hostfile.read(file)
    assert fault in str(caught.value) and str(file) in str(caught.value)


def test_missing_hostfile_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--hostfile .*nowhere cannot be read: No such file"):
        operator.main(["--hostfile", str(tmp_path / "nowhere")])


def test_differences() -> None:
    here = HostReport({"Python": "3.11.7", "torch": "2.13.0"}, "c0de", 0, 1, "sha256:aaaa")
    assert check.differences(here, here) == []
    there = replace(
        here,
        versions={**here.versions, "torch": "missing"},
        code="c0ffee",
        fingerprint=None,
        data_error="/data/set: no such data set",
    )
    faults = check.differences(there, here)
    assert faults[0] == "torch missing, here 2.13.0"
    assert faults[1].startswith("other code in") and "c0ffee, here c0de" in faults[1]
    assert faults[2] == "/data/set: no such data set"
    other = replace(here, fingerprint="sha256:bbbb")
    assert check.differences(other, here) == ["another data set (sha256:bbbb..., here sha256:aaaa...)"]


def test_probe_of_this_host(data: Path, tmp_path: Path) -> None:
    report = probe.probe(str(data))
    assert report.fingerprint is not None and report.fingerprint.startswith("sha256:")
    assert report.versions.keys() == {"Python", *probe.PACKAGES}
    assert "no such" in probe.probe(str(tmp_path / "none")).data_error.lower()


ARGUMENTS = ["--run", "a b", "--x", 'it\'s "$HOME"; rm `x` \\ #', "ünï", "", "a\nb"]


def test_arguments_pass_through_two_shells() -> None:
    encoded = encode(ARGUMENTS)
    through = subprocess.run(
        ["bash", "-c", f"bash -c 'printf %s {encoded}'"], capture_output=True, text=True, check=True
    )
    assert decode([through.stdout]) == ARGUMENTS
    assert decode(["--local_rank=3", "--seed", "1"]) == ["--seed", "1"]


def test_forwarded_variables_arrive_through_deepspeeds_quotes(monkeypatch, tmp_path: Path) -> None:  # noqa: ANN001
    from deepspeed.launcher.multinode_runner import PDSHRunner

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".deepspeed_env").write_text("OWN=1\n\nno value\n")
    env = {"MEALREC_RUN": 'runs/a b$c;"d`', "MEALREC_OPERATOR": "1:2", "SECRET": "x", "NCCL_DEBUG": "INFO"}
    lines = ssh.forwarded(env).splitlines()
    assert [line.split("=")[0] for line in lines] == ["OWN", "MEALREC_RUN", "NCCL_DEBUG"]
    runner = PDSHRunner.__new__(PDSHRunner)
    runner.exports = {}
    for line in lines:
        runner.add_export(*line.split("=", maxsplit=1))
    script = "".join(f"export {key}={value}; " for key, value in runner.exports.items())
    done = subprocess.run(
        ["bash", "-c", script + 'printf %s "$MEALREC_RUN"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == env["MEALREC_RUN"]


def test_number_of_ranks_is_the_host_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--num_gpus and --hostfile"):
        options.parse(["--hostfile", str(tmp_path / "hosts"), "--num_gpus", "2"])
