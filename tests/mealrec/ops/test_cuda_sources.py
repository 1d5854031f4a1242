"""The CUDA sources compiled alone, without a GPU: no spills, wide accesses, few instructions."""

import re
import shutil
import subprocess
from importlib import util
from pathlib import Path

import pytest

from mealrec.ops import build

# Instructions per element between two stores of a thread's loop, on sm_90 (docs/kernels.md).
BUDGET = {
    ("q_sample", "bfloat16"): 20,
    ("q_sample", "float"): 22,
    ("diffusion_loss_gradient", "bfloat16"): 10,
}


def compile_alone(nvcc, name, architecture, out):
    command = [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    command += ["-Xptxas", "-v", "-cubin", f"{build.SOURCES / name}.cu", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def disassemble(cubin):
    triton = util.find_spec("triton")
    beside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" if triton else Path("none")
    tool = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(beside))
    if tool is None:
        pytest.skip("no cuobjdump on the PATH or in Triton: the machine code is not read")
    listing = subprocess.run([tool, "--dump-sass", str(cubin)], capture_output=True, text=True, check=True)
    kernels = {}
    for line in listing.stdout.splitlines():
        if header := re.search(r"Function : (\S+)", line):
            kernel = kernels.setdefault(header.group(1), [])
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([^;]+);", line):
            kernel.append(instruction.group(1).split()[0])
    return kernels


@pytest.mark.parametrize("architecture", ["80", "90", "100"])
@pytest.mark.parametrize("name", build.KERNELS)
def test_no_spills_and_no_local_memory(nvcc, name, architecture, tmp_path):
    known = subprocess.run(
        [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout.split()
    if f"compute_{architecture}" not in known:
        pytest.skip(f"this nvcc does not compile for sm_{architecture}")
    report = compile_alone(nvcc, name, architecture, tmp_path / "kernel.cubin")
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames and all(frame == ("0", "0", "0") for frame in frames)
    assert "warning" not in report


@pytest.mark.parametrize("architecture", ["80", "90"])
def test_four_blocks_of_q_sample_fit_a_multiprocessor(nvcc, architecture, tmp_path):
    report = compile_alone(nvcc, "q_sample", architecture, tmp_path / "kernel.cubin")
    registers = [int(used) for used in re.findall(r"Used (\d+) registers", report)]
    assert len(registers) == 8 and max(registers) <= 65536 // (4 * 256)


@pytest.mark.parametrize("name", [name for name in build.KERNELS if name != "draw"])
def test_aligned_rows_move_in_sixteen_bytes(nvcc, name, tmp_path):
    compile_alone(nvcc, name, "90", tmp_path / "kernel.cubin")
    kernels = disassemble(tmp_path / "kernel.cubin")
    aligned = {name: code for name, code in kernels.items() if re.search(r"(bfloat16|I?f)Lb1E", name)}
    assert len(aligned) >= 4
    for kernel, code in aligned.items():
        assert not any(op.startswith(("LDL", "STL")) for op in code), kernel
        assert sum(op.startswith("LDG.E.128") for op in code) >= 4, kernel
        assert name == "diffusion_loss" or sum(op.startswith("STG.E.128") for op in code) >= 4, kernel
        assert not any(op.startswith(("LDG.E.U16", "STG.E.U16")) for op in code), kernel


@pytest.mark.parametrize(("name", "dtype"), BUDGET)
def test_instructions_per_element(nvcc, name, dtype, tmp_path):
    """From the store of one vector to the store of the next: what a vector costs once rows are set up."""
    compile_alone(nvcc, name, "90", tmp_path / "kernel.cubin")
    kernels = disassemble(tmp_path / "kernel.cubin")
    letter = "bfloat16" if dtype == "bfloat16" else "kernelIf"
    (code,) = [code for kernel, code in kernels.items() if f"{letter}Lb1ELb0E" in kernel]  # not packed
    stores = [at for at, op in enumerate(code) if op.startswith("STG.E.128")][-4:]
    between = max(b - a for a, b in zip(stores, stores[1:], strict=False))
    assert between / (8 if dtype == "bfloat16" else 4) <= BUDGET[name, dtype]
