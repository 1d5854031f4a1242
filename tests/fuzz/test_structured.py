"""Inputs that have the form of what is read and any content, drawn by Hypothesis."""

import contextlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import Index
from shards.format.info import describe
from shards.format.npy import read_header
from tests.fuzz.targets import EXPECTED, TARGETS, data_set

few = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([2**31, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@few
@given(st.data())
def test_an_index_with_other_values(folder, data):
    """It is refused, or all that it says can be shown."""
    path = data_set(folder)
    sound = (path / "index.json").read_text()
    raw = json.loads(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = raw
        while True:
            key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            if not (isinstance(at[key], dict | list) and at[key]) or data.draw(st.booleans()):
                break
            at = at[key]
        at[key] = data.draw(values)
    try:
        (path / "index.json").write_text(json.dumps(raw))
        with contextlib.suppress(*EXPECTED):
            describe(path)
            index = Index.load(path)
            index.train_counts(), index.item_ids(), index.user_ids()
    finally:
        (path / "index.json").write_text(sound)


shapes = st.one_of(
    st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**63, 10**30]), max_size=4).map(tuple), values
)
dtypes = st.sampled_from(["<f4", ">f2", "|V0", "|O", "<U0", "<U2", "|S3", "<M8[s]", "<c8", "|b1"]) | values


@few
@given(shape=shapes, dtype=dtypes, content=st.binary(max_size=64))
def test_an_array_with_any_header(shape, dtype, content):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode("utf-8", "replace")
    array = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + content
    try:
        found = read_header(io.BytesIO(array), len(array), "fiuU")
    except ValueError:
        return
    assert found.shape == shape and found.dtype.itemsize > 0 and array[found.start :] == content


names = ["video-00000001.frames.npy", "video-00000001.count.cls", "video-1.x", "__a__", "a/b.c", "x"]
kinds = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"?"]
pax_names = ["size", "GNU.sparse.map", "path", "GNU.sparse.name"]
members = st.tuples(
    st.sampled_from(names),
    st.sampled_from([b"", b"2", bytes(range(256))]),
    st.sampled_from(kinds),
    st.dictionaries(st.sampled_from(pax_names), st.text(max_size=4)),
    st.none() | st.integers(-(2**70), 2**70),
)


@few
@given(st.lists(members, max_size=4))
def test_a_tar_of_any_members(folder, content):
    packed = io.BytesIO()
    for name, data, kind, pax, size in content:
        info = tarfile.TarInfo(name)
        info.type, info.pax_headers = kind, {} if size is not None else pax
        info.size = len(data) if size is None else size
        try:
            packed.write(info.tobuf(tarfile.PAX_FORMAT if size is None else tarfile.GNU_FORMAT))
        except (ValueError, OverflowError):  # not even a tar can say so
            return
        packed.write(data + bytes(-len(data) % 512))
    for name in ("features", "sequences"):
        with contextlib.suppress(*EXPECTED):
            TARGETS[name].read(packed.getvalue() + bytes(1024), folder)
