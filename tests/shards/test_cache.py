"""The cache keeps to its limit by removing what was not used for the longest time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards import cache
from shards.errors import DataError


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_reserved", {})


def entry(root: Path, kind: str, name: str, size: int, used: float) -> Path:
    folder = root / kind / name
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(size))
    os.utime(folder, (used, used))
    return folder


def test_the_oldest_entries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1e-6")  # 1,000 bytes
    oldest = entry(tmp_path, "features", "a", 400, used=100.0)
    middle = entry(tmp_path, "remote", "b", 300, used=200.0)
    newest = entry(tmp_path, "features", "c", 200, used=300.0)
    built = entry(tmp_path, "kernels", "k", 5000, used=0.0)  # another kind: not limited
    cache.reserve(tmp_path, tmp_path / "features" / "new", 450)
    assert [path.exists() for path in (oldest, middle, newest, built)] == [False, True, True, True]


def test_an_entry_that_is_used_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1e-6")
    first = entry(tmp_path, "features", "a", 400, used=100.0)
    second = entry(tmp_path, "features", "b", 400, used=200.0)
    cache.touch(first)
    cache.reserve(tmp_path, tmp_path / "remote" / "new", 400)
    assert first.exists() and not second.exists()


def test_an_entry_may_grow_without_losing_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "1e-6")
    growing = entry(tmp_path, "remote", "a", 600, used=1.0)
    other = entry(tmp_path, "remote", "b", 300, used=2.0)
    cache.reserve(tmp_path, growing, 100)
    assert growing.exists() and other.exists()
    cache.reserve(tmp_path, growing, 200)
    assert growing.exists() and not other.exists()


def test_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "0.001")
    with pytest.raises(DataError, match=r"would take 2\.0 GB, and the cache may hold 0\.0.*MEALREC_CACHE_GB"):
        cache.reserve(tmp_path, tmp_path / "features" / "large", 2 * 10**9)


@pytest.mark.parametrize("value", ["much", "0", "-1", "inf"])
def test_wrong_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(cache.VARIABLE, value)
    with pytest.raises(DataError, match="expected a number of gigabytes above 0"):
        cache.size_limit(tmp_path)


def test_half_of_the_disk_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    assert cache.size_limit(tmp_path) == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize // 2
