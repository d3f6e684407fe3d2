"""The safetensors format, written so that equal content makes equal bytes.

The safetensors library writes a file's metadata in an order that changes from run to run; here it
is sorted. Everything else is as the library has it: an 8-byte little-endian header length, the JSON
header padded with spaces to 8 bytes, tensors by falling size of their numbers, then by name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .tensor_file import DTYPES

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length field and header of a file that holds these tensors."""
    entries: dict[str, object] = {}
    if metadata:
        entries["__metadata__"] = {key: metadata[key] for key in sorted(metadata)}
    offset = 0
    for name in _in_order(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes after the header, one tensor at a time, little-endian."""
    for name in _in_order(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        content: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
        yield memoryview(content)


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, without a second copy of its tensors in memory."""
    with path.open("wb") as file:
        file.write(header_bytes(tensors, metadata))
        for chunk in tensor_bytes(tensors):
            file.write(chunk)


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all bytes after the header: `sshs_model_hash`, which metadata can't change."""
    digest = hashlib.sha256()
    for chunk in tensor_bytes(tensors):
        digest.update(chunk)
    return digest.hexdigest()


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the whole file that `write_file` makes: names, shapes, metadata and numbers."""
    digest = hashlib.sha256(header_bytes(tensors, metadata))
    for chunk in tensor_bytes(tensors):
        digest.update(chunk)
    return digest.hexdigest()


def legacy_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """First 8 digits of the SHA-256 of bytes 0x100000 to 0x110000: `sshs_legacy_hash`.

    Of a file with only the ss_ metadata, as sd-scripts computes it
    (`precalculate_safetensors_hashes` in library/train_util.py); a smaller file has none of these
    bytes.
    """
    own = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    first, last = 0x100000, 0x110000
    digest, position = hashlib.sha256(), 0
    for chunk in (memoryview(header_bytes(tensors, own)), *tensor_bytes(tensors)):
        digest.update(chunk[max(0, first - position) : max(0, last - position)])
        position += len(chunk)
        if position >= last:
            break
    return digest.hexdigest()[:8]


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
