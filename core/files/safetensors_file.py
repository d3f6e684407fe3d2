"""Safetensors files, checked whole before any tensor is read.

Layout: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape,
data_offsets), the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from .tensor_file import (
    DTYPES,
    FormatError,
    Place,
    TensorFile,
    byte_count,
    is_count,
    opened,
    require_names,
    shown,
    stamp_of,
)

MAX_HEADER = 100_000_000  # bytes; what the format's own readers allow
_LENGTH = 8
_DIGITS = 19  # of a 64-bit number; Python takes quadratic time for thousands of them


def is_start(start: bytes) -> bool:
    """Whether a file with these first bytes (9 or more) means to be a safetensors file."""
    return int.from_bytes(start[:_LENGTH], "little") <= MAX_HEADER and start[_LENGTH:][:1] == b"{"


def read_header(path: Path) -> TensorFile:
    """Read and check the header; every byte of the file must belong to exactly one tensor.

    Raises FormatError when the file is missing, cut off, damaged, or not a safetensors file.
    """
    with opened(path) as file:
        stamp = stamp_of(file)
        length = int.from_bytes(file.read(_LENGTH), "little")
        if stamp.size < _LENGTH + 2 or not 2 <= length <= MAX_HEADER or file.read(1) != b"{":
            raise FormatError("is not a safetensors file")
        data = _LENGTH + length
        if stamp.size < data:
            raise _cut_off(data - stamp.size)
        raw = b"{" + file.read(length - 1)
    entries = _parse(raw)
    metadata = _metadata(entries.pop("__metadata__", {}))
    places = {name: _place(name, entry, data) for name, entry in entries.items()}
    _check_cover(places, data, stamp.size)
    return TensorFile(path, places, metadata, stamp)


def _cut_off(missing: int) -> FormatError:
    return FormatError(f"ends {missing} bytes early")


def _damaged(what: str) -> FormatError:
    return FormatError(f"is damaged ({what})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_number(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its header is not readable: {error}") from error
    require_names(found)
    return found


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise _damaged("its metadata is not a table of texts")
    require_names(found)
    require_names(dict.fromkeys(found.values()))
    return found


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(is_count, value)):
        raise ValueError("not a list of counts")
    return tuple(value)


def _place(name: str, entry: Any, data: int) -> Place:
    try:
        code, shape = entry["dtype"], _counts(entry["shape"])
        start, end = _counts(entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(f"its entry {shown(name)} is not one of a tensor") from error
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise FormatError(
            f"holds tensor {shown(name)} in a dtype that is not read ({shown(code)}; known are "
            f"{', '.join(DTYPES)})"
        )
    if end - start != byte_count(shape, dtype):
        raise _damaged(f"tensor {shown(name)} of shape {list(shape)} has {end - start} bytes")
    return Place(dtype, shape, data + start, end - start)


def _spans(places: dict[str, Place]) -> Iterator[tuple[int, int, str]]:
    yield from sorted(
        (place.start, place.start + place.length, name) for name, place in places.items()
    )


def _check_cover(places: dict[str, Place], data: int, size: int) -> None:
    at = data
    for start, end, name in _spans(places):
        if start != at:
            raise _damaged(f"tensor {shown(name)} begins at byte {start} instead of {at}")
        at = end
    if at > size:
        raise _cut_off(at - size)
    if at < size:
        raise _damaged(f"{size - at} bytes at its end belong to no tensor")
