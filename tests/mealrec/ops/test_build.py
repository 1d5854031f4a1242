"""Building at first use: cached, by one process of a host, and never a reason to fail."""

import fcntl
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mealrec.ops import build

ROOT = Path(__file__).parents[3]
USE = """
    import logging, torch
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from mealrec.ops import Counters, words
    zero = torch.zeros(3, dtype=torch.int64)
    counters = Counters(torch.tensor(1), torch.tensor(2), zero, zero)
    for _ in range(2):
        print(int(words(counters, 4, 5, kernel={kernel!r})[0, 0]))
"""


def run(code, cache, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MEALREC_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.fixture
def compiler():
    try:
        build.compilers("cpu")
    except build.Unavailable as reason:
        pytest.skip(f"nothing can be built here: {reason}")


def test_without_a_compiler_the_reference_works_and_says_so_once(tmp_path):
    done = run(USE.format(kernel="auto"), tmp_path, PATH=str(tmp_path), CXX="")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kernels are off") == 1 and "no C++ compiler on the PATH" in done.stderr
    first, second = done.stdout.split()
    assert first == second


def test_a_kernel_asked_for_by_name_is_not_replaced(tmp_path):
    done = run(USE.format(kernel="cpu"), tmp_path, PATH=str(tmp_path), CXX="")
    assert done.returncode == 1
    assert "Unavailable: no C++ compiler on the PATH (g++, clang++, c++)" in done.stderr


def test_a_compiler_that_fails_is_no_reason_to_stop(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    done = run(USE.format(kernel="auto"), tmp_path / "cache", CXX=str(broken))
    assert done.returncode == 0, done.stderr
    assert "broken failed: x.cpp:1: error: no such luck" in done.stderr
    assert [path.name for path in (tmp_path / "cache" / "kernels").iterdir()] == ["cpu.lock"]


@pytest.mark.parametrize(
    ("file", "right", "wrong", "operation"),
    [
        ("philox.h", "0xD2511F53", "0xD2511F51", "words"),
        ("cpu_ops.h", "signal * load(x[c]) + noise", "signal * load(x[c]) - noise", "q_sample"),
        ("cpu_softmax.h", "logit + bias[i] - most", "logit - most", "softmax_terms_"),
        ("cpu_count.h", "== limit", ">= limit", "count_above"),
    ],
)
def test_kernels_that_answer_wrongly_are_not_used(tmp_path, compiler, file, right, wrong, operation):
    sources = tmp_path / "csrc"
    shutil.copytree(build.SOURCES, sources)
    text = (sources / file).read_text()
    assert right in text
    (sources / file).write_text(text.replace(right, wrong))
    here = (
        f"from pathlib import Path; from mealrec.ops import build; build.SOURCES = Path({str(sources)!r})\n"
    )
    results = [
        run(here + textwrap.dedent(USE.format(kernel=kernel)), tmp_path)
        for kernel in ("auto", "reference", "cpu")
    ]
    assert results[0].returncode == 0 and results[0].stdout == results[1].stdout
    assert results[0].stderr.count("kernels are off") == 1
    assert f"they are wrong here: {operation} differs" in results[0].stderr
    assert (
        results[2].returncode == 1 and f"Unavailable: they are wrong here: {operation}" in results[2].stderr
    )


def test_the_environment_chooses(tmp_path, compiler):
    done = run(USE.format(kernel="auto"), tmp_path, MEALREC_KERNEL="reference")
    assert done.returncode == 0 and not (tmp_path / "kernels").exists()
    done = run(USE.format(kernel="auto"), tmp_path, MEALREC_KERNEL="fast")
    assert "kernel is 'fast', expected one of auto, cuda, cpu, reference" in done.stderr


def test_processes_at_once_build_once_and_the_next_build_nothing(tmp_path, compiler):
    left = tmp_path / "kernels" / "build-cpu-killed"
    left.mkdir(parents=True)
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: run(USE.format(kernel="auto"), tmp_path), range(3)))
    assert all(done.returncode == 0 for done in runs), runs[0].stderr
    assert sum("building the cpu kernels" in done.stderr for done in runs) == 1
    assert len({done.stdout for done in runs}) == 1 and not left.exists()
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
    again = run(USE.format(kernel="auto"), tmp_path)
    assert "building" not in again.stderr
    assert again.stderr.count("operations: fused cpu kernels") == 1


def test_a_killed_builder_leaves_no_lock(tmp_path, monkeypatch, caplog, compiler):
    """The lock is the kernel's: it goes with the process that holds it."""
    monkeypatch.setenv("MEALREC_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    hold = """
        import fcntl, sys, time
        lock = open(sys.argv[1], "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(600)
    """
    path = tmp_path / "kernels" / "cpu.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(hold).strip(), str(path)], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with open(path, "w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(build.library, "cpu")
        while "waiting for another process" not in caplog.text:
            pass
        holder.kill()
        assert waiting.result(timeout=120).exists()
    holder.wait()


def test_a_library_belongs_to_its_sources(tmp_path, monkeypatch):
    key = build._key("cpu")
    copy = tmp_path / "csrc"
    shutil.copytree(build.SOURCES, copy)
    monkeypatch.setattr(build, "SOURCES", copy)
    assert build._key("cpu") == key
    (copy / "philox.h").write_text((copy / "philox.h").read_text() + "\n// changed\n")
    assert build._key("cpu") != key
    monkeypatch.setattr(build, "_instruction_set", lambda: "another CPU")
    assert build._key("cuda") != build._key("cpu")


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    with pytest.raises(
        build.Unavailable, match="a GPU has architecture sm_75, sm_80 is the oldest supported"
    ):
        build.library("cuda")


def test_an_ahead_of_time_library_serves_the_gpus_that_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("MEALREC_CACHE", str(tmp_path))
    library = tmp_path / "kernels" / f"cuda-{build._key('cuda')}-sm80-sm90.so"
    library.parent.mkdir()
    library.touch()
    assert build.built("cuda", ("90",)) == build.built("cuda", ("80", "90")) == library
    assert build.built("cuda", ("100",)) is None and build.built("cpu") is None


def test_doctor_tells_what_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mealrec.ops", "doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {"MEALREC_CACHE": str(tmp_path), "PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0
    assert re.search(r"^cpu +off: no C\+\+ compiler on the PATH", done.stdout, re.MULTILINE)
    assert re.search(r"^cuda +off: no CUDA device is visible; plain PyTorch", done.stdout, re.MULTILINE)


def test_an_ahead_of_time_build_that_cannot_be_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mealrec.ops", "build", "cuda"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MEALREC_CACHE": str(tmp_path), "PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)},
    )
    assert done.returncode == 1 and done.stderr.startswith("error: no ") and "Traceback" not in done.stderr
