"""The CUDA sources as a library of CPU operators: compiled by a C++ compiler against `shim/`."""

import contextlib
import ctypes
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from mealrec.ops import build, choice
from mealrec.ops.library import SCHEMAS

HERE = Path(__file__).parent
LAUNCH = re.compile(r"(\w+(?:<[\w, ]+>)?)<<<([^;]+?), (\w+), 0, [^;]+?>>>\(([^;]*)\);")
ASSEMBLY = re.compile(r'asm\("(sqrt|lg2)\.approx\.ftz\.f32 %0, %1;" : "=f"\((\w+)\) : "f"\((\w+)\)\);')
FLAGS = ("-O1", "-g1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off")
DEVICE = ("-std=c++17", "-D__CUDACC__", "-D__CUDA_ARCH__=900", "-include", "cuda_runtime.h")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all")
OBJECTS = (*build.KERNELS, "machine", "binding")
ORDERS = ("ascending", "descending", "random")

_definitions = torch.library.Library("cuda_on_cpu", "DEF")
for _schema in SCHEMAS:
    _definitions.define(_schema)


class Library:
    """The operators as the simulated GPU runs them, and its settings."""

    def __init__(self, path):
        torch.ops.load_library(str(path))
        self._machine = ctypes.CDLL(str(path))
        self._machine.machine_set.argtypes = (ctypes.c_int, ctypes.c_bool, *[ctypes.c_uint64] * 2)

    def set(self, order="ascending", rounding=False, last_blocks=0, seed=0):
        """Set how the next launches run.

        order: of blocks, warps and lanes; rounding: approximations are off by their documented bounds;
        last_blocks: only so many blocks are run, if not 0.
        """
        self._machine.machine_set(ORDERS.index(order), rounding, last_blocks, seed)

    @contextlib.contextmanager
    def in_place_of_the_cpu_kernels(self):
        choice.load("cpu")
        with torch.library._scoped_library("mealrec", "IMPL") as operators, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            for name in (schema.split("(")[0] for schema in SCHEMAS):
                operator = getattr(torch.ops.cuda_on_cpu, name).default
                operators.impl(name, operator, "CPU", allow_override=True)
            yield


def compile_all(folder, sanitized=False):
    """The library, built in `folder`."""
    folder.mkdir()
    for path in (
        *build.SOURCES.iterdir(),
        HERE / "machine.cpp",
        HERE / "binding.cpp",
        *(HERE / "shim").iterdir(),
    ):
        text = path.read_text()
        (folder / path.name).write_text(as_cpp(text) if path.parent == build.SOURCES else text)
    for name in OBJECTS:
        compile_object(name, folder, sanitized)
    return link(folder, sanitized)


def compile_with_fault(folder, base, kernel, file, right, wrong):
    """The sanitized library of the folder `base`, in whose `kernel` the text `right` of `file` is `wrong`."""
    shutil.copytree(base, folder)
    text = (folder / file).read_text()
    assert right in text, f"{file} has no {right!r}"
    (folder / file).write_text(text.replace(right, wrong))
    compile_object(kernel, folder, sanitized=True)
    return link(folder, sanitized=True)


def compile_object(name, folder, sanitized):
    if name in build.KERNELS:
        arguments = [*DEVICE, "-x", "c++", f"{name}.cu"]
    elif name == "machine":
        arguments = ["-std=c++17", "machine.cpp"]
    else:
        arguments = ["-std=c++20", *build.torch_flags()[:2], "binding.cpp"]
    run([*FLAGS, *(SANITIZERS if sanitized else ()), "-I.", "-c", *arguments, "-o", f"{name}.o"], folder)


def link(folder, sanitized):
    objects = [f"{name}.o" for name in OBJECTS]
    flags = ["-shared", *(SANITIZERS if sanitized else ()), *build.torch_flags()[2:], "-ltorch_cpu"]
    run([*objects, *flags, "-o", "library.so"], folder)
    return folder / "library.so"


def as_cpp(text):
    """CUDA source without what only nvcc reads: the launch syntax and instructions of the GPU."""
    text = LAUNCH.sub(r"machine::launch(\2, \3, [&] { \1(\4); });", text)
    text = ASSEMBLY.sub(r"\2 = machine::\1_approx(\3);", text)
    assert "<<<" not in text and "asm(" not in text
    return text


def run(arguments, folder):
    command = [build.compilers("cpu")["cxx"], *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
