"""Old checkpoints (`.ckpt`, `.pt`): pickles, of which only tensors are taken.

Two layouts of torch.save. Since 1.6: a zip archive of stored, not compressed records: NAME/data.pkl
describes the tensors, NAME/data/KEY holds the bytes of each storage. Before: five pickles in a row
(a magic number, the version, the machine, the content, the storages' keys), then for each key the
count of its numbers (8 bytes) and the numbers.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..files.tensor_file import (
    DTYPES,
    MAX_DIMS,
    FormatError,
    Place,
    Stamp,
    TensorFile,
    byte_count,
    is_count,
    opened,
    require_names,
    shown,
    stamp_of,
)
from .unpickle import MAX_PICKLE, Storage, Stored, Window, unpickle

_NESTS = ("state_dict", "model", "module")  # where savers put the tensors, as deep as they like
_DEPTH = 4
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_COUNT = 8  # bytes of a number of numbers
_LOCAL_HEADER, _LOCAL_SIGN = 30, b"PK\x03\x04"
# what zipfile raises on archives that are damaged in their many ways
_DAMAGE = (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, RuntimeError)
_DAMAGE = (*_DAMAGE, struct.error, OverflowError, MemoryError, EOFError)


class _Span(NamedTuple):
    """Bytes of the file."""

    start: int
    length: int


def read_pickle(path: Path) -> TensorFile:
    """Find the tensors of a pickled checkpoint by name.

    Nothing in the file is run, and no size that it states is believed. Raises FormatError for a
    pickle that names anything but tensors and plain values, and for a damaged one.
    """
    with opened(path) as file:
        stamp = stamp_of(file)
        zipped = file.read(len(_LOCAL_SIGN)) == _LOCAL_SIGN
        found, spans = (_read_zip if zipped else _read_row)(file, stamp)
    tensors = _tensors(found)
    places = {name: _place(name, stored, spans) for name, stored in tensors.items()}
    return TensorFile(path, places, {}, stamp)


def _damaged(what: str) -> FormatError:
    return FormatError(f"is damaged ({what})")


def _read_zip(file: BinaryIO, stamp: Stamp) -> tuple[Any, Mapping[str, _Span]]:
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except _DAMAGE as error:
        raise FormatError(f"is a damaged zip archive ({shown(str(error))})") from error
    spans = {}
    for record in records:
        if record.filename in spans:
            raise _damaged(f"its record {shown(record.filename)} is there twice")
        spans[record.filename] = record
    names = [name for name in spans if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise FormatError("is a zip archive, but not one of torch.save")
    prefix = names[0].removesuffix("data.pkl")
    order = spans.get(f"{prefix}byteorder")
    if order is not None and _content(file, _span(file, order, stamp)) != b"little":
        raise FormatError("was saved on a machine of another byte order")
    pickled = _span(file, spans[names[0]], stamp)
    found = unpickle(_window(file, pickled)).value
    start = f"{prefix}data/"
    storages = {
        name.removeprefix(start): _span(file, record, stamp)
        for name, record in spans.items()
        if name.startswith(start)
    }
    return found, storages


def _content(file: BinaryIO, span: _Span) -> bytes:
    file.seek(span.start)
    return file.read(min(span.length, 16))


def _window(file: BinaryIO, span: _Span) -> Window:
    if span.length > MAX_PICKLE:
        raise FormatError(
            f"has a pickle of {span.length >> 20} MiB, more than any checkpoint needs"
        )
    return Window(file, *span)


def _span(file: BinaryIO, record: zipfile.ZipInfo, stamp: Stamp) -> _Span:
    """Where the record's bytes lie: behind a header that repeats its name and is padded."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise FormatError(
            f"has a compressed or encrypted record ({shown(record.filename)}), unlike torch.save"
        )
    if not 0 <= record.header_offset < stamp.size:
        raise _damaged(f"its record {shown(record.filename)} lies nowhere")
    file.seek(record.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(_LOCAL_SIGN):
        raise _damaged(f"its record {shown(record.filename)} is not where it should be")
    name, extra = struct.unpack("<HH", header[26:30])
    start = record.header_offset + _LOCAL_HEADER + name + extra
    if start + record.file_size > stamp.size:
        raise FormatError(f"ends {start + record.file_size - stamp.size} bytes early")
    return _Span(start, record.file_size)


def _read_row(file: BinaryIO, stamp: Stamp) -> tuple[Any, Mapping[str, _Span]]:
    window = Window(file, 0, min(stamp.size, MAX_PICKLE))
    magic, version, machine = (unpickle(window).value for _ in range(3))
    if magic != _MAGIC or version != _VERSION:
        raise FormatError("is a pickle, but not one of torch.save")
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise FormatError("was saved on a machine of another byte order")
    found, storages = unpickle(window)
    keys = unpickle(window).value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _damaged("its list of storages is not one")
    return found, _rows(file, [storages.get(key) for key in keys], stamp)


def _rows(file: BinaryIO, storages: list[Storage | None], stamp: Stamp) -> dict[str, _Span]:
    """Where the storages lie that follow from here on, each after the count of its numbers."""
    spans, at = {}, file.tell()
    for storage in storages:
        if storage is None:
            raise _damaged("it has a storage that no tensor refers to")
        file.seek(at)
        if int.from_bytes(file.read(_COUNT), "little") != storage.numbers:
            raise _damaged(f"storage {shown(storage.key)} has another size than stated")
        span = _Span(at + _COUNT, storage.numbers * storage.dtype.itemsize)
        at = span.start + span.length
        if at > stamp.size:
            raise FormatError(f"ends {at - stamp.size} bytes early")
        spans[storage.key] = span
    if at != stamp.size:
        raise _damaged(f"{stamp.size - at} bytes at its end belong to no tensor")
    return spans


def _tensors(found: Any) -> dict[str, Stored]:
    for _ in range(_DEPTH):
        inner = next((found[n] for n in _NESTS if isinstance(found, dict) and n in found), None)
        if not isinstance(inner, dict):
            break
        found = inner
    pairs = found.items() if isinstance(found, dict) else ()
    tensors = {name: value for name, value in pairs if isinstance(value, Stored)}
    if not tensors:
        raise FormatError("holds no named tensors")
    require_names(tensors)
    return tensors


def _place(name: str, stored: Stored, spans: Mapping[str, _Span]) -> Place:
    storage, dtype = stored.storage, stored.dtype
    span = spans.get(storage.key)
    if span is None:
        raise _damaged(f"the numbers of tensor {shown(name)} are missing")
    held = storage.numbers * storage.dtype.itemsize
    if held > span.length:
        raise _damaged(f"tensor {shown(name)} has {span.length} bytes instead of {held}")
    if dtype not in DTYPES.values():
        raise FormatError(f"holds tensor {shown(name)} in a dtype that is not read ({dtype})")
    shape, stride = _counts(name, stored.shape), _counts(name, stored.stride)
    (offset,) = _counts(name, (stored.offset,))
    size = byte_count(shape, dtype)
    if len(stride) != len(shape):
        raise _damaged(f"tensor {shown(name)} has {len(shape)} sides, but {len(stride)} strides")
    if size == 0:
        return Place(dtype, shape, span.start, 0)
    reach = 1 + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    start, length = offset * dtype.itemsize, reach * dtype.itemsize
    if start + length > held or size > length:
        raise _damaged(f"tensor {shown(name)} of shape {list(shape)} has {held} bytes")
    in_order = None if _is_in_order(shape, stride) else stride
    return Place(dtype, shape, span.start + start, length, in_order)


def _counts(name: str, values: Any) -> tuple[int, ...]:
    is_row = isinstance(values, (tuple, list)) and len(values) <= MAX_DIMS
    if not is_row or not all(map(is_count, values)):
        raise _damaged(f"tensor {shown(name)} has a shape that cannot be")
    return tuple(values)


def _is_in_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the numbers lie one after the other, the last side first."""
    steps = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    return all(
        own == step or side == 1 for own, step, side in zip(stride, steps, shape, strict=True)
    )
