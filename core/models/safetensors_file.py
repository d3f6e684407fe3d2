"""Safetensors files, checked whole before any tensor is touched, and mapped one tensor at a time.

Layout: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape,
data_offsets), the tensors' bytes. Mapping each tensor by itself, instead of the whole file, means
that the memory of one that was moved goes back at once: a model is never there twice, also by the
operating system's count.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes; what the format's own readers allow
_LENGTH = 8

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


class Place(NamedTuple):
    """Where a tensor lies: dtype, shape, first byte in the file, number of bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """All places of a safetensors file by tensor name, and its metadata."""

    places: dict[str, Place]
    metadata: dict[str, str]


def is_start(start: bytes) -> bool:
    """Whether a file with these first bytes (9 or more) means to be a safetensors file."""
    return int.from_bytes(start[:_LENGTH], "little") <= MAX_HEADER and start[_LENGTH:][:1] == b"{"


def read_header(path: Path) -> Header:
    """Read and check the header; every byte of the file must belong to exactly one tensor.

    Raises CheckpointError when the file is cut off, damaged, or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or not 2 <= length <= MAX_HEADER:
            raise CheckpointError(f"{path} is not a safetensors file; give a model's checkpoint")
        raw = file.read(length)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{path} is not a safetensors file; give a model's checkpoint")
    if len(raw) < length:
        raise _cut_off(path, _LENGTH + length - size)
    entries = _parse(path, raw)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    data = _LENGTH + length
    places = {name: _place(path, name, entry, data) for name, entry in entries.items()}
    _check_cover(path, places, data, size)
    return Header(places, metadata)


def read_tensor(path: Path, place: Place) -> Tensor:
    """Map one tensor, on the CPU, in its stored dtype; the file is read where its bytes are used.

    The mapping is private: writing to the tensor does not change the file. It ends with the tensor.
    """
    if place.length == 0:
        return torch.empty(place.shape, dtype=place.dtype)
    skipped = place.start % mmap.ALLOCATIONGRANULARITY
    length, offset = skipped + place.length, place.start - skipped
    try:
        with path.open("rb") as file:
            window = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=offset)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} can't be read any more ({error}); is it still there?"
        ) from error
    raw = torch.frombuffer(window, dtype=torch.uint8, count=place.length, offset=skipped)
    if place.start % place.dtype.itemsize:
        raw = raw.clone()  # some writers do not align; a tensor's numbers must be
    return raw.view(place.dtype).view(place.shape)


def _cut_off(path: Path, missing: int) -> CheckpointError:
    return CheckpointError(f"{path} ends {missing} bytes early: download or copy it again")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({what}): download or copy it again")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not readable: {error}") from error


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise _damaged(path, "its metadata is not a table of texts")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _counts(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(map(_is_count, value)):
        raise ValueError("not a list of counts")
    return value


def _place(path: Path, name: str, entry: Any, data: int) -> Place:
    try:
        code, shape = entry["dtype"], _counts(entry["shape"])
        start, end = _counts(entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"its entry {name!r} is not one of a tensor") from error
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        known = ", ".join(DTYPES)
        raise CheckpointError(f"{path}: tensor {name!r} is stored as {code!r}; known are {known}")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"tensor {name!r} of shape {shape} has {end - start} bytes")
    return Place(dtype, tuple(shape), data + start, end - start)


def _spans(places: dict[str, Place]) -> Iterator[tuple[int, int, str]]:
    yield from sorted(
        (place.start, place.start + place.length, name) for name, place in places.items()
    )


def _check_cover(path: Path, places: dict[str, Place], data: int, size: int) -> None:
    at = data
    for start, end, name in _spans(places):
        if start != at:
            raise _damaged(path, f"tensor {name!r} begins at byte {start} instead of {at}")
        at = end
    if at > size:
        raise _cut_off(path, at - size)
    if at < size:
        raise _damaged(path, f"{size - at} bytes at its end belong to no tensor")
