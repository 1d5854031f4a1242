"""A process that dies costs the clip that killed it, and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
lmdb = pytest.importorskip("lmdb")
from shards.frames.clips import Clip  # noqa: E402
from shards.frames.picture import Square  # noqa: E402
from shards.frames.read import Sampling, Unreadable  # noqa: E402
from shards.frames.workers import Workers  # noqa: E402
from tests.shards.frames.drawn import write_clip  # noqa: E402


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Twelve clips of one grey frame each: the brightness says which."""
    pictures = [np.full((64, 64, 3), 20 * at, np.uint8) for at in range(12)]
    files = [
        write_clip(tmp_path / f"{at}.mp4", 1, size=(64, 64), pictures=[picture])
        for at, picture in enumerate(pictures)
    ]
    return [Clip(file.stem, "video", (file,)) for file in files]


def brightness(read) -> dict[str, int]:
    """Twentieths of the brightness of each clip that was read; each must come once."""
    found = [(clip.id, pictures) for clip, pictures in read]
    assert len({key for key, _ in found}) == len(found)
    return {
        key: round(float(pictures.mean()) / 20)
        for key, pictures in found
        if not isinstance(pictures, Unreadable)
    }


def test_a_process_that_is_killed(clips: list[Clip]) -> None:
    with Workers(2, Sampling(8), Square(64, 64)) as workers:
        read = workers.read(clips)
        results = [next(read)]
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        results += read
    assert brightness(results) == {clip.id: int(clip.id) for clip in clips}


def test_a_clip_that_kills_its_process(tmp_path: Path, clips: list[Clip]) -> None:
    """An LMDB that is cut off: its pages are mapped, and reading one that is not there ends the process."""
    path = tmp_path / "cut.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 26) as out, out.begin(write=True) as writing:
        for at in range(20):
            writing.put(f"harm-{at}".encode(), bytes(1 << 20))
    os.truncate(path, 3 * 4096)
    harm = Clip("harm-9", "lmdb", (path,))
    with Workers(2, Sampling(8), Square(64, 64)) as workers:
        results = list(workers.read([*clips[:3], harm, *clips[3:]]))
    assert brightness(results) == {clip.id: int(clip.id) for clip in clips}
    (fault,) = (pictures for clip, pictures in results if clip == harm)
    assert fault == Unreadable("its process died: out of memory, or a fault in FFmpeg")


def test_a_process_that_decodes_loads_no_torch() -> None:
    """It would take seconds and 200 MiB for each."""
    script = "import sys; import shards.frames.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
