"""The header of a `.npy`, judged before anything is allocated or mapped by what it says.

NumPy itself divides by an item size of 0, and allocates what a header asks for before it looks for as much.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from shards.errors import DataError
from shards.format.files import open_regular

KINDS = {"f": "floats", "i": "integers", "u": "integers", "U": "text"}


class Header(NamedTuple):
    """What an array in a file is, and at which byte its numbers start."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool
    start: int


def read_header(source: BinaryIO, size: int, kinds: str) -> Header:
    """The header of the array in `source`, a file of `size` bytes, whose dtype must be one of `kinds`.

    Raises:
        ValueError: it is not an array, of another kind, or not of the size that its header says.
    """
    version = np.lib.format.read_magic(source)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"found version {version}, expected 1.0 or 2.0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers of Python 2
            shape, fortran_order, dtype = read(source)
    except Exception as error:  # NumPy reads it as Python, with Python's tokenizer and all that they raise
        raise ValueError(f"header not readable: {error}") from None
    if dtype.kind not in kinds or not dtype.itemsize:
        expected = " or ".join(dict.fromkeys(KINDS[kind] for kind in kinds))
        raise ValueError(f"found {dtype}, expected {expected}")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"found shape {shape}, expected lengths of 0 or more")
    start = source.tell()
    content = size - start
    if math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"found {content} bytes after the header, expected {dtype} {list(shape)}")
    return Header(shape, dtype, fortran_order, start)


def decode_array(content: bytes, kinds: str) -> np.ndarray:
    """The array in the bytes of a `.npy`, whose dtype must be one of `kinds`. ValueError as `read_header`."""
    header = read_header(io.BytesIO(content), len(content), kinds)
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    view = np.ndarray(header.shape, header.dtype, content, header.start, order=order)
    return np.array(view)  # a copy: the bytes cannot be written


def header_fault(path: Path, shape: tuple[int, ...], dtype: str) -> str | None:
    """What is wrong with the header of the file at `path`, which should hold an array of `shape`."""
    try:
        with open_regular(path) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, "fi")
    except (OSError, ValueError) as error:
        return f"not readable as .npy: {error}"
    if (header.shape, header.dtype) == (shape, np.dtype(dtype)):
        return None
    return f"found {header.dtype} {list(header.shape)}, expected {dtype} {list(shape)}"


def open_array(path: Path, kinds: str) -> np.ndarray:
    """The array in the file at `path`, mapped, whose dtype must be one of `kinds`.

    Raises:
        DataError: it is not an array, of another kind, or damaged.
    """
    try:
        with open_regular(path) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, kinds)
            if not math.prod(header.shape):
                return np.zeros(header.shape, header.dtype)  # nothing to map
            order: Literal["F", "C"] = "F" if header.fortran_order else "C"
            return np.memmap(file, header.dtype, "r", header.start, header.shape, order)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as .npy: {error}") from None
