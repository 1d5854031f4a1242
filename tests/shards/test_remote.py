"""Data sets behind a URL or a command: fetched once, checked, used from the cache."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from shards import DataError, Features, Index, transfer
from shards.address import address_of
from shards.format import files
from shards.stream.evaluation import EvalStream
from shards.stream.feature_table import FeatureTable
from shards.stream.training import TrainStream

OPTIONS = dict(
    batch_size=24, micro_batch_size=24, rank=0, world_size=1, max_length=7, seed=5, shuffle_window=3
)
SHAPE = Features(frames=3, width=4, dtype="float16")


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and fails as often as `failures` says."""

    requests: list[str]
    failures: int
    stalls: threading.Event | None = None

    def do_GET(self):
        self.requests.append(self.path)
        if self.stalls:
            self.stalls.wait()
            return
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEALREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path):
    """The URL of `tmp_path`, and the handler class."""
    handler = type("Handler", (_Handler,), {"requests": [], "failures": 0})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def _items(index, workers=0, table=None):
    epoch = TrainStream(index, workers=workers, table=table, **OPTIONS).epoch(0)
    return [batch["item"].tolist() for step in epoch for batch in step]


def _assert_same_data(local: Index, url: str):
    index = Index.load(url)
    assert index.address == url and index.fingerprint == local.fingerprint
    assert _items(index) == _items(local)
    here, there = FeatureTable.open(local), FeatureTable.open(index)
    assert np.array_equal(here.features, there.features)
    assert np.array_equal(index.train_counts(), local.train_counts())
    options = dict(batch_size=9, rank=0, world_size=1, max_length=5)
    for one, other in zip(
        EvalStream(index, "test", **options), EvalStream(local, "test", **options), strict=True
    ):
        assert one["history"].equal(other["history"])


def test_http(make_data_set, served):
    local, _ = make_data_set(features=SHAPE)
    _assert_same_data(local, f"{served[0]}/data")
    assert _items(Index.load(f"{served[0]}/data/")) == _items(local)


def test_file_url(make_data_set):
    local, _ = make_data_set(features=SHAPE)
    _assert_same_data(local, f"file://{local.path}")


def test_object_store(make_data_set):
    """A store with buckets and without folders, as S3 is, through the same fsspec calls."""
    local, _ = make_data_set(features=SHAPE)
    store = fsspec.filesystem("memory")
    store.put(local.path, "/bucket/set", recursive=True)
    _assert_same_data(local, "memory://bucket/set")


@pytest.mark.parametrize("command", ["pipe:cat {path}", "pipe:cat {path}/{{}} | cat"])
def test_pipe(make_data_set, command):
    local, _ = make_data_set(features=SHAPE)
    _assert_same_data(local, command.format(path=local.path))


def test_names_of_files_are_quoted_for_the_shell():
    assert address_of("pipe:cat /set", "a b;rm c.tar") == "pipe:cat /set/'a b;rm c.tar'"
    assert address_of("pipe:get {} -", "$x.tar") == "pipe:get '$x.tar' -"


def test_each_shard_is_fetched_once(make_data_set, served):
    url, handler = served
    local, _ = make_data_set(features=SHAPE)
    for _ in range(2):
        files._verified.clear()  # as a new process would
        index = Index.load(f"{url}/data")
        _items(index)
        FeatureTable.open(index)
    shards = [path for path in handler.requests if path.endswith(".tar")]
    assert sorted(shards) == sorted(
        f"/data/{entry.file}" for entry in (*local.sequence_shards, *local.feature_shards)
    )


def test_a_fetched_shard_is_hashed_once(make_data_set, served, monkeypatch):
    local, _ = make_data_set()
    hashed = []
    sha256 = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or sha256(path))
    _items(Index.load(f"{served[0]}/data"))
    assert len(hashed) == len(local.sequence_shards)


def test_features_do_not_stay_twice(make_data_set, served, cache):
    make_data_set(features=SHAPE)
    FeatureTable.open(Index.load(f"{served[0]}/data"))
    assert not list(cache.rglob("features-*.tar"))


def test_only_what_is_needed_is_fetched(make_data_set, served):
    url, handler = served
    local, _ = make_data_set()
    stream = TrainStream(Index.load(f"{url}/data"), **OPTIONS)
    assert handler.requests == ["/data/index.json"]
    next(epoch := stream.epoch(0, stream.steps_per_epoch - 1))
    epoch.close()
    assert 1 < len(handler.requests) < 1 + len(local.sequence_shards)


def test_workers_fetch_too(make_data_set, served):
    local, _ = make_data_set()
    index = Index.load(f"{served[0]}/data")
    assert _items(index, workers=2) == _items(local)


def test_processes_of_a_host_share_the_cache(make_data_set, served):
    url, handler = served
    local, _ = make_data_set()
    code = (
        "import sys; from shards import Index\n"
        "index = Index.load(sys.argv[1]); [index.local(entry) for entry in index.sequence_shards]"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, f"{url}/data"]
    processes = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sum(path.endswith(".tar") for path in handler.requests) == len(local.sequence_shards)


def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again(make_data_set, served, cache):
    local, _ = make_data_set()
    index = Index.load(f"{served[0]}/data")
    expected = _items(index)
    copy = next(cache.rglob("sequences-000002.tar"))
    copy.write_bytes(b"?" * copy.stat().st_size)
    (copy.parent / "sequences-000001.tar.partial-1").write_bytes(b"of a killed transfer")
    files._verified.clear()
    assert _items(Index.load(f"{served[0]}/data")) == expected
    assert copy.read_bytes() == (Path(local.path) / "sequences" / copy.name).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_source_that_is_not_what_the_index_says(make_data_set, served, cache, damage):
    local, _ = make_data_set()
    index = Index.load(f"{served[0]}/data")
    path = Path(local.path) / index.sequence_shards[1].file
    data = path.read_bytes()
    path.write_bytes(data[:-512] if damage == "truncated" else b"!" + data[1:])
    expected = (
        "truncated: found .* bytes, expected" if damage == "truncated" else "wrong checksum: found sha256"
    )
    with pytest.raises(DataError, match=f"{index.path}/sequences/sequences-000001.tar: {expected}") as caught:
        _items(index)
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("sequences-000001.tar*partial*"))
    assert not list(cache.rglob("sequences-000001.tar"))


def test_a_source_that_stumbles_is_asked_again(make_data_set, served):
    local, _ = make_data_set()
    url, handler = served
    handler.failures = 2
    assert Index.load(f"{url}/data").users == local.users
    handler.failures = 100
    with pytest.raises(DataError, match=r"/data/index.json: cannot be read: .*503.* \(3 attempts\)"):
        Index.load(f"{url}/data")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/set", "pipe:false", "nosuch://x/set", "memory://none/set"]
)
def test_addresses_that_lead_nowhere(address):
    with pytest.raises(DataError, match=address) as caught:
        Index.load(address)
    assert "\n" not in str(caught.value)


def test_what_is_missing_at_the_source(make_data_set, served):
    local, _ = make_data_set()
    with pytest.raises(DataError, match="/other/index.json: no such file"):
        Index.load(f"{served[0]}/other")
    index = Index.load(f"{served[0]}/data")
    (Path(local.path) / index.sequence_shards[0].file).unlink()
    with pytest.raises(DataError, match="sequences-000000.tar: no such file"):
        _items(index)


def test_a_query_goes_behind_the_file(make_data_set, served):
    local, _ = make_data_set()
    url, handler = served
    assert Index.load(f"{url}/data?token=abc123").fingerprint == local.fingerprint
    assert handler.requests == ["/data/index.json?token=abc123"]


@pytest.mark.parametrize("file", ["index.json", "sequences/sequences-000000.tar"])
@pytest.mark.parametrize("fault", ["missing", "busy", "damaged"])
def test_credentials_stay_out_of_messages(make_data_set, served, monkeypatch, file, fault):
    local, _ = make_data_set()
    url, handler = served
    address = url.replace("//", "//someone:pass%2Fword@") + "/data?token=secret%2Btoken&x=1"
    index = Index.load(address)
    assert not any(secret in repr(index) for secret in ("someone", "word", "secret"))
    path = Path(local.path) / file
    if fault == "missing":
        path.unlink()
    elif fault == "busy":
        handler.failures = 100
    else:
        path.write_bytes(b"?")
    with pytest.raises(DataError) as caught:
        _items(Index.load(address) if file == "index.json" else index)
    message = str(caught.value)
    assert f"/data/{file[:9]}" in message and "***" in message
    assert not any(secret in message for secret in ("someone", "pass", "word", "secret", "token=s"))


def test_credentials_of_commands_stay_out_of_messages():
    for address in ("pipe:KEY=verysecret fetch {}", "pipe:false --key verysecret", "pipe:cat /verysecret"):
        with pytest.raises(DataError) as caught:
            Index.load(address)
        assert "verysecret" not in str(caught.value) and "pipe:" in str(caught.value)


def test_a_store_that_stalls(make_data_set, served, monkeypatch):
    local, _ = make_data_set()
    url, handler = served
    index, handler.stalls = Index.load(f"{url}/data"), threading.Event()
    monkeypatch.setattr(transfer, "STALLED_AFTER", 0.2)
    monkeypatch.setattr(transfer, "_LOOK_EVERY", 0.05)
    with pytest.raises(DataError, match=r"\.tar: .*nothing has arrived for 0\.2 seconds \(3 attempts\)"):
        _items(index)
    handler.stalls.set()


def test_a_command_that_stalls_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "STALLED_AFTER", 0.2)
    monkeypatch.setattr(transfer, "_LOOK_EVERY", 0.05)
    pids = tmp_path / "pids"
    with pytest.raises(DataError, match="nothing has arrived for 0.2 seconds"):
        Index.load(f"pipe:echo $$ >> {pids}; sleep 60 #")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.read_text().split())


def test_a_source_that_sends_without_end(make_data_set, monkeypatch):
    monkeypatch.setattr(transfer, "_LOOK_EVERY", 0.05)
    local, _ = make_data_set()
    index = Index.load(f"pipe:f={{}}; case $f in *.json) cat {local.path}/$f;; *) cat /dev/zero;; esac")
    with pytest.raises(DataError, match="found more than the [0-9]+ bytes that are expected"):
        _items(index)
