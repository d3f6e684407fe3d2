"""Tensors in files: where each lies, and reading one at a time, never past the file's end.

Bytes are read, not memory mapped: a mapped file that another program cuts short, or a disk that
fails, ends the whole process instead of raising an error. Reading a tensor into memory of its own
takes as long as copying it out of a mapping (measured).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

MAX_DIMS = 16
_SHOWN = 200  # characters
MAX_BYTES = 1 << 62  # more than any file has, and safe in 64-bit sizes

_DTYPE_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# older versions of torch lack the 8-bit floats
DTYPES: dict[str, torch.dtype] = {
    code: getattr(torch, name) for code, name in _DTYPE_NAMES.items() if hasattr(torch, name)
}


class FormatError(Exception):
    """What keeps a file from being read, as the end of a sentence that begins with its path.

    Who asked for the file adds the path and the remedy, and makes it the user's error.
    """


class Place(NamedTuple):
    """Where a tensor lies: dtype, shape, first byte in the file, number of bytes.

    stride: in numbers, as torch has it; None where the numbers lie in order.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    length: int
    stride: tuple[int, ...] | None = None


class Stamp(NamedTuple):
    """A file's size in bytes and its time of change in ns: differ once it was written again."""

    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """All places of a file by tensor name, its metadata, and how it was when they were read."""

    path: Path
    places: Mapping[str, Place]
    metadata: Mapping[str, str]
    stamp: Stamp

    def tensor(self, name: str) -> Tensor:
        """Read one tensor, on the CPU, in its stored dtype, into memory of its own.

        Raises FormatError when the file is gone or changed since it was opened.
        """
        place = self.places[name]
        if place.length == 0:
            return torch.empty(place.shape, dtype=place.dtype)
        with opened(self.path) as file:
            if stamp_of(file) != self.stamp:
                raise FormatError("was changed by another program while it was being read")
            raw = _read(file, place.start, place.length).view(place.dtype)
        if place.stride is None:
            return raw.view(place.shape)
        return raw.as_strided(place.shape, place.stride).contiguous()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; errors of opening it, and of reading in the block, are FormatErrors."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise _unreadable(error) from error
    if stat.S_ISDIR(mode):
        raise FormatError("is a folder")
    if not stat.S_ISREG(mode):
        raise FormatError("is not a file")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(error) from error


def stamp_of(file: BinaryIO) -> Stamp:
    """The stamp of an open file."""
    found = os.fstat(file.fileno())
    return Stamp(found.st_size, found.st_mtime_ns)


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number from 0 to MAX_BYTES, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES


def byte_count(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor of counts `shape`. Raises FormatError where no tensor can have it."""
    if len(shape) > MAX_DIMS:
        raise FormatError(f"is damaged (a tensor of {len(shape)} dimensions)")
    # torch also computes strides of empty tensors, so their other sides must not overflow either
    if math.prod(side or 1 for side in shape) * dtype.itemsize > MAX_BYTES:
        raise FormatError(f"is damaged (a tensor of shape {list(shape)})")
    return math.prod(shape) * dtype.itemsize


def require_names(names: Mapping[str, Any]) -> None:
    """Raise FormatError where a name is no text that can be shown (half a surrogate pair)."""
    try:
        "".join(names).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"is damaged (a name is not readable: {error.reason})") from error


def shown(name: object) -> str:
    """A name from a file, quoted for an error: escaped where it can't be printed, and cut."""
    text = name if isinstance(name, str) else f"a {type(name).__name__}"
    return repr(text[:_SHOWN] + "..." if len(text) > _SHOWN else text)


def _unreadable(error: Exception) -> FormatError:
    return FormatError(f"can't be read ({getattr(error, 'strerror', None) or error})")


def _read(file: BinaryIO, start: int, length: int) -> Tensor:
    try:
        raw = torch.empty(length, dtype=torch.uint8)
    except RuntimeError as error:
        raise FormatError(f"needs {length >> 20} MiB of memory for one tensor") from error
    file.seek(start)
    reader: Any = file  # its type lacks readinto
    read = reader.readinto(raw.numpy())
    if read != length:
        raise FormatError(f"ends {length - read} bytes early")
    return raw
