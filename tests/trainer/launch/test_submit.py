"""What is handed to a scheduler: the whole of it can be seen without one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.__main__ import run
from trainer.command_line import decode

SHARED = ["--", "--data", "/shared/set", "--run", "/shared/runs/a b"]


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["submit", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["submit", *arguments]) == 2
    return capsys.readouterr().err


def test_slurm_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [
        "--time",
        "10:00",
        "--partition",
        "gpu",
        "--sbatch=--qos=low",
        "--dry-run",
        "--",
        "--run",
        "a b",
    ]
    script = rendered(capsys, "slurm", "--nodes", "2", "--gpus-per-node", "4", *arguments, "--seed", "3")
    for line in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=10:00", "--partition=gpu",
        "--requeue", "--signal=B:USR1@120", "--qos=low",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "DS_ACCELERATOR" not in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("restarts", [0, 1])
def test_slurm_script_hands_the_words_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, restarts: int
) -> None:
    """The script is run for real, with a stand-in for srun that shows what a task would get."""
    awkward = "it's $HOME; `x`"
    script = rendered(capsys, "slurm", "--dry-run", "--", "--run", awkward, "--train.lr", "0.1")
    (tmp_path / awkward).mkdir()
    (tmp_path / awkward / "config.yaml").touch()
    (tmp_path / "srun").write_text('#!/bin/bash\nshift; printf "%s\\n" "$WORLD_SIZE" "${@:6}"\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho n1; echo n2\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    slurm |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": str(restarts)}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, env=environment, check=True)
    resumed = ["--resume"] if restarts else []
    assert done.stdout.splitlines() == ["1", "--run", awkward, "--train.lr", "0.1", *resumed]


def test_ray_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    extra = tmp_path / "env.yaml"
    extra.write_text("pip: [webdataset]\n")
    arguments = ["--nodes", "2", "--ranks-per-node", "3", "--runtime-env", str(extra), "--dry-run", *SHARED]
    request = json.loads(rendered(capsys, "ray", *arguments))
    driver = ["python", "-m", "trainer.rank.ray", "--nodes", "2", "--ranks-per-node", "3"]
    assert shlex.split(request["entrypoint"]) == [*driver, *SHARED]
    assert request["runtime_env"]["pip"] == ["webdataset"] and "working_dir" in request["runtime_env"]


NEEDED = ["--image", "here/mealrec:1", "--claim", "disk", "--dry-run"]


def manifest(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    return yaml.safe_load(rendered(capsys, "kubernetes", *NEEDED, *options, *SHARED))


def test_pytorch_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = manifest(capsys, "--nodes", "3", "--gpus-per-node", "8", "--namespace", "research")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["metadata"] == {"name": "mealrec", "namespace": "research"}
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {name: part["replicas"] for name, part in replicas.items()} == {"Master": 1, "Worker": 2}
    assert job["spec"]["nprocPerNode"] == "8"
    container = replicas["Worker"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["command"][-4:] == SHARED[1:]
    assert "Worker" not in manifest(capsys)["spec"]["pytorchReplicaSpecs"]


def test_pods_continue_a_run_that_was_begun(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = manifest(capsys)
    *shell, path = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0][
        "command"
    ][:4]
    (tmp_path / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def arguments() -> list[str]:
        command = [*shell, str(tmp_path), "--seed", "1"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stdout.splitlines()[1:]

    assert path == "/shared/runs/a b"
    assert arguments() == ["--seed", "1"]
    (tmp_path / "config.yaml").touch()
    assert arguments() == ["--seed", "1", "--resume"]


def test_ray_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = manifest(capsys, "--kind", "rayjob", "--nodes", "2", "--gpus-per-node", "4")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    assert decode([job["spec"]["entrypoint"].split()[-1]]) == SHARED[1:]  # a name with a space in it
    arguments = ["--run", "/shared/runs/a", "--data", "/shared/data"]
    plain = rendered(capsys, "kubernetes", *NEEDED, "--kind", "rayjob", "--", *arguments)
    assert yaml.safe_load(plain)["spec"]["entrypoint"].endswith(f"-- {' '.join(arguments)}")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["slurm", "--", "--train.lrr", "1"], "unknown option '--train.lrr'; did you mean --train.lr?"),
        (["slurm", "--nodes", "0", "--"], "--nodes must be at least 1, not 0"),
        (["slurm", "--", "--num_gpus", "2"], "leave --num_gpus out of ARGS"),
        (["pbs"], "invalid choice: 'pbs'"),
        (
            ["ray", "--", "--run", "/x"],
            "ARGS need --data with an absolute path",
        ),
        (["ray", "--", "--data", "/x", "--run", "y"], "ARGS need --run with an absolute path"),
        (
            ["slurm", "--sbatch=--qos=low\n#SBATCH --wrap=id", "--"],
            "--sbatch: found '--qos=low\\n#SB",
        ),
        (["slurm", "--partition", "a\nb", "--"], "submit: --partition: found 'a\\nb', expected one line"),
        (["kubernetes", *NEEDED, "--name", "a\nb", *SHARED], "submit: --name: found 'a\\nb'"),
        (
            ["kubernetes", *NEEDED, "--name", "Two Words", *SHARED],
            "is 'Two Words', expected at most 63",
        ),
        (["kubernetes", *NEEDED, "--namespace", "a" * 64, *SHARED], "aaa', expected at most 63 lower-case"),
        (["kubernetes", "--image", "i", "--"], "the following arguments are required: --claim"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str) -> None:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    assert fault in refused(capsys, *arguments[:split], "--dry-run", *arguments[split:])


def test_scheduler_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "sbatch is not on the PATH" in refused(capsys, "slurm", "--", "--seed", "1")
