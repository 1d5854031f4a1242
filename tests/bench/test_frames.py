"""All ways of the benchmark of frames give the same frames, and it writes its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
from bench import frames, report  # noqa: E402
from tests.shards.frames.drawn import write_clip  # noqa: E402


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, group in (("long", 250), ("short", 10)):
        write_clip(folder / f"{name}.mp4", 60, options={"g": str(group), "bf": "2"})
    return folder


def test_all_ways_give_the_same_frames(clips: Path) -> None:
    files = sorted(clips.iterdir())
    truth, *others = (frames.read(files, 5, way) for way in frames.WAYS.values())
    assert [len(pictures) for pictures in truth] == [5, 5]
    for other in others:
        for found, expected in zip(other, truth, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_it_writes_its_rows(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "REPEATS", 1)
    out = tmp_path / "frames.csv"
    source = Path(frames.__file__)
    monkeypatch.setattr("sys.argv", [str(source), "--videos", str(clips), "--rounds", "1", "--out", str(out)])
    frames.main()
    rows = report.read(out)
    assert [row["what"] for row in rows][:4] == [*frames.WAYS, "processes: 1"]
    assert all(float(row["core-ms a video"]) > 0 for row in rows)
