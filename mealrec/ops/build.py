"""Compile `csrc/` at first use and keep the result: one library for CPU tensors, one for CUDA tensors.

A library's name has a hash of its sources, the PyTorch version, the compiler's flags, and the CPU's
instruction set or the CUDA version; and the GPU architectures. One process per host builds while the others
wait; the lock is released with its process, and the next build removes what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
KERNELS = (
    "q_sample",
    "scale_rows",
    "reverse_step",
    "diffusion_loss",
    "diffusion_loss_gradient",
    "dropout",
    "draw",
)
AHEAD_OF_TIME = ("80", "90")
"""GPU architectures (sm_XX) of a build ahead of time, by default."""
OLDEST = 80
"""The oldest architecture with the instructions that the kernels use (bfloat16 conversion)."""

log = logging.getLogger("mealrec")


class Unavailable(RuntimeError):
    """Why a kernel library is not available here, in one line."""


def cache() -> Path:
    """The folder of built libraries: $MEALREC_CACHE/kernels, by default ~/.cache/mealrec/kernels."""
    return Path(os.environ.get("MEALREC_CACHE") or "~/.cache/mealrec").expanduser() / "kernels"


def library(kind: str, architectures: tuple[str, ...] = ()) -> Path:
    """The library of `kind` ("cpu" or "cuda"), built now if it is not there yet.

    architectures: for CUDA, those that it must hold; by default those of the visible GPUs.

    Raises:
        Unavailable: with the reason why it cannot be built.
    """
    if kind == "cuda":
        architectures = architectures or visible_architectures()
    cached = built(kind, architectures)
    if cached is not None:
        return cached
    toolchain, folder = compilers(kind), cache()
    if kind == "cuda" and not (Path(torch.__file__).parent / "lib" / "libtorch_cuda.so").exists():
        raise Unavailable(f"this PyTorch ({torch.__version__}) is built without CUDA")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the cache {folder} cannot be made ({error.strerror}); set MEALREC_CACHE"
        ) from error
    with _builder(folder, kind):
        cached = built(kind, architectures)
        return cached if cached is not None else _build(kind, architectures, toolchain, folder)


def built(kind: str, architectures: tuple[str, ...] = ()) -> Path | None:
    """The library of `kind` in the cache that holds these architectures, if any."""
    prefix = f"{kind}-{_key(kind)}"
    for path in sorted(cache().glob(f"{prefix}*.so")):
        if set(architectures) <= set(re.findall(r"sm(\d+)", path.stem[len(prefix) :])):
            return path
    return None


def visible_architectures() -> tuple[str, ...]:
    """Architectures of the visible GPUs, as "90".

    Raises:
        Unavailable: no GPU, or one that is too old.
    """
    if not torch.cuda.is_available():
        raise Unavailable("no CUDA device is visible")
    visible = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    for major, minor in visible:
        if major * 10 + minor < OLDEST:
            raise Unavailable(
                f"a GPU has architecture sm_{major}{minor}, sm_{OLDEST} is the oldest supported"
            )
    return tuple(sorted(f"{major}{minor}" for major, minor in visible))


def compilers(kind: str) -> dict[str, str]:
    """Paths of the compilers for `kind`: "cxx", and "nvcc" for CUDA.

    Raises:
        Unavailable: naming what is missing.
    """
    wanted = os.environ.get("CXX")
    names = [wanted] if wanted else ["g++", "clang++", "c++"]
    cxx = next((path for name in names if (path := shutil.which(name))), None)
    if cxx is None:
        raise Unavailable(f"no C++ compiler on the PATH ({', '.join(names)})")
    paths = {"cxx": cxx}
    if kind == "cuda":
        home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
        nvcc = shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
        if nvcc is None:
            raise Unavailable("no nvcc on the PATH or in $CUDA_HOME/bin")
        paths["nvcc"] = nvcc
    return paths


def flags(kind: str, architectures: tuple[str, ...] = ()) -> list[str]:
    """Flags of the C++ compiler for `kind` "cpu", of nvcc for "cuda"."""
    if kind == "cuda":
        targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
        return ["-std=c++17", "-O3", *targets]
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    # No errno and no traps: square roots and selections can then be vector instructions. Results stay IEEE.
    return ["-std=c++20", "-O3", native, "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]


def _key(kind: str) -> str:
    """Hash of all that a library depends on besides the GPU architectures, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    target = torch.version.cuda if kind == "cuda" else _instruction_set()
    digest.update(repr((torch.__version__, target, flags(kind))).encode())
    return digest.hexdigest()[:16]


def _instruction_set() -> str:
    try:
        features = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    return platform.machine() + (features.group(2) if features else platform.processor())


@contextlib.contextmanager
def _builder(folder: Path, kind: str) -> Iterator[None]:
    """Lock out this host's other builders; the system releases the lock of a process that dies."""
    with open(folder / f"{kind}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that builds the %s kernels", kind)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(kind: str, architectures: tuple[str, ...], toolchain: dict[str, str], folder: Path) -> Path:
    log.info("building the %s kernels, once for this host (some seconds) ...", kind)
    for leftover in folder.glob(f"build-{kind}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"build-{kind}-", dir=folder) as work:
        out = Path(work) / "library.so"
        if kind == "cpu":
            _compile_cpu(toolchain["cxx"], out)
        else:
            _compile_cuda(toolchain, architectures, out)
        suffix = "".join(f"-sm{arch}" for arch in architectures)
        target = folder / f"{kind}-{_key(kind)}{suffix}.so"
        os.replace(out, target)
    return target


def torch_flags() -> list[str]:
    """Flags to compile and to link against PyTorch: two and one."""
    root = Path(torch.__file__).parent
    # The oldest stable ABI that has what binding.h uses: PyTorch 2.10.
    return ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{root / 'include'}", f"-L{root / 'lib'}"]


def _compile_cpu(cxx: str, out: Path) -> None:
    source = str(SOURCES / "binding_cpu.cpp")
    _run([cxx, *flags("cpu"), "-fPIC", "-shared", source, "-o", str(out), *torch_flags(), "-ltorch_cpu"])


def _compile_cuda(toolchain: dict[str, str], architectures: tuple[str, ...], out: Path) -> None:
    nvcc = [
        toolchain["nvcc"],
        "-ccbin",
        toolchain["cxx"],
        *flags("cuda", architectures),
        "-Xcompiler",
        "-fPIC",
    ]
    objects = [out.with_name(f"{name}.o") for name in (*KERNELS, "binding")]
    commands = [
        [*nvcc, "-c", str(SOURCES / f"{name}.cu"), "-o", str(target)]
        for name, target in zip(KERNELS, objects, strict=False)
    ]
    source = str(SOURCES / "binding_cuda.cpp")
    cxx = [toolchain["cxx"], "-std=c++20", "-O2", "-fPIC", *torch_flags()]
    commands.append([*cxx, "-c", source, "-o", str(objects[-1])])
    with ThreadPoolExecutor(min(len(commands), os.cpu_count() or 1)) as pool:
        list(pool.map(_run, commands))
    libraries = [*torch_flags()[2:], "-ltorch_cpu", "-ltorch_cuda"]
    _run(
        [
            toolchain["nvcc"],
            "-ccbin",
            toolchain["cxx"],
            "-shared",
            *map(str, objects),
            "-o",
            str(out),
            *libraries,
        ]
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        log.debug("%s\n%s%s", " ".join(command), done.stdout, done.stderr)
        reason = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:]
        )
        raise Unavailable(f"{Path(command[0]).name} failed: {reason.strip()}")
