"""Sizes, checksums and files that appear whole."""

import pytest

from shards import DataError
from shards.format import files
from shards.format.files import FileEntry, file_sha256, is_verified, verify
from shards.format.partial import PartialPath


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path, FileEntry("file", 7, file_sha256(path))


def test_a_file_is_hashed_once_per_process(file, monkeypatch):
    path, entry = file
    hashed = []
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    assert not is_verified(path, entry)
    verify(path, entry)
    verify(path, entry)
    assert hashed == [path] and is_verified(path, entry)
    path.write_bytes(b"cont")
    with pytest.raises(DataError, match="file: truncated: found 4 bytes, expected 7"):
        verify(path, entry)


def test_a_wrong_file_is_not_remembered(file):
    path, entry = file
    path.write_bytes(b"Content")
    for _ in range(2):
        with pytest.raises(DataError, match=r"file: wrong checksum: found sha256 \w{16}\.\.\., expected"):
            verify(path, entry)
    path.write_bytes(b"content")
    verify(path, entry)


def test_a_partial_file_appears_at_commit(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")
    with PartialPath(target) as partial:
        partial.path.write_text("new")
        assert target.read_text() == "old"
        partial.commit()
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_partial_folder_appears_at_commit(tmp_path):
    with PartialPath(tmp_path / "target") as partial:
        partial.make_folder()
        (partial.path / "inside").write_text("new")
        partial.commit()
    assert (tmp_path / "target" / "inside").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


def test_without_commit_nothing_is_left(tmp_path):
    with pytest.raises(RuntimeError), PartialPath(tmp_path / "target") as partial:
        partial.make_folder()
        (partial.path / "inside").write_text("new")
        raise RuntimeError
    with PartialPath(tmp_path / "target") as partial:
        partial.path.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "target.partial-1").write_text("left")
    (tmp_path / "target.partial-2").mkdir()
    (tmp_path / "other.partial-1").write_text("another's")
    PartialPath(tmp_path / "target").discard_all()
    assert [path.name for path in tmp_path.iterdir()] == ["other.partial-1"]
