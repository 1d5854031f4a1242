"""An export that is damaged, incomplete or of another version is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards import DataError
from trainer.errors import UserError
from trainer.serving import Recommender, saved

READ = ("config.json", "model.safetensors", "items.npy", "features.npy", "frames.npy")


@pytest.fixture
def export(small_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_export, tmp_path / "export"))


def refused(export: Path) -> str:
    with pytest.raises((UserError, DataError)) as caught:
        Recommender.load(export)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_an_altered_or_missing_file(export: Path, name: str) -> None:
    content = bytearray((export / name).read_bytes())
    content[-1] ^= 1
    (export / name).write_bytes(content)
    assert refused(export) == f"{export / name} has another content than was written"
    (export / name).unlink()
    assert refused(export) == f"{export / name} cannot be read: No such file or directory"


def test_checksums_that_are_missing_or_list_too_little(export: Path) -> None:
    sums = export / saved.CHECKSUMS
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "items.npy" not in line))
    assert "does not list items.npy" in refused(export)
    sums.write_text("nonsense\n")
    assert f"{sums}:1: found 'nonsense'" in refused(export)
    sums.unlink()
    assert refused(export) == f"{sums} cannot be read: No such file or directory"


def change(export: Path, **changes: object) -> None:
    about = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps({**about, **changes}))
    saved.write_checksums(export)


def test_another_version_or_configuration(export: Path) -> None:
    change(export, version=2)
    assert refused(export) == f"{export} is an export of version 2, this program reads version 1"
    change(export, version=1, seed="seven")
    assert "config.json: field seed: found 'seven'" in refused(export)
    model = json.loads((export / "config.json").read_text())["model"]
    change(export, seed=7, model={**model, "videos": 39})
    assert "items.npy: found [40], expected [39]" in refused(export)
    change(export, model={**model, "backbone": {"layers": 1, "name": "gru4rec"}})
    assert "weight backbone." in refused(export)
    change(export, model={**model, "dim": 15})
    assert refused(export) == f"{export / 'config.json'}: model.dim is 15, expected an even number"
    (export / "config.json").write_text("{")
    saved.write_checksums(export)
    assert "config.json is not JSON" in refused(export)


@pytest.mark.parametrize(
    "change_of_model",
    [{"videos": 10**12}, {"dim": 1 << 40}, {"max_length": 10**15}, {"width": 10**12}]
    + [{"backbone": {"layers": 10**9}}, {"npd": {"hidden": 10**9}}, {"tcd": {"steps": 10**15}}],
    ids=str,
)
def test_a_model_that_is_too_large_is_not_built(export: Path, change_of_model: dict) -> None:
    model = json.loads((export / "config.json").read_text())["model"]
    for name, value in change_of_model.items():
        model[name] = {**model[name], **value} if isinstance(value, dict) else value
    change(export, model=model)
    assert "config.json: a " in refused(export)


def test_files_that_do_not_belong_together(export: Path) -> None:
    np.save(export / "items.npy", np.arange(3))
    saved.write_checksums(export)
    assert "items.npy: found [3], expected [40]" in refused(export)
    np.save(export / "items.npy", np.array([{}] * 40), allow_pickle=True)
    saved.write_checksums(export)
    assert "items.npy: not readable as .npy: found object" in refused(export)


def test_features_of_another_shape(export: Path) -> None:
    np.save(export / "features.npy", np.zeros((41, 2, 5), np.float16))
    saved.write_checksums(export)
    assert "found float16 [41, 2, 5], expected float16 [41, 3, 5]" in refused(export)


def test_neither_a_run_nor_an_export(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: no such run or export"
    assert "holds no run" in refused(tmp_path)


def test_loading_needs_no_deepspeed_and_no_pickle(export: Path) -> None:
    script = (
        "import pickle, sys\n"
        "from trainer.serving import Recommender\n"
        "def refuse(*_, **__): raise AssertionError('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse\n"
        f"print(len(Recommender.load({str(export)!r}).recommend([['video 1']], k=4)[0]))\n"
        "sys.exit('deepspeed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_checksums_are_those_of_sha256sum(export: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", saved.CHECKSUMS], cwd=export, check=True)
    listed = {line.split("  ")[1] for line in (export / saved.CHECKSUMS).read_text().splitlines()}
    assert listed == {path.name for path in export.iterdir()} - {saved.CHECKSUMS}
