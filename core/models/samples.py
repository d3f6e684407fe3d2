"""Bytes of tensors: checksums, and evenly spaced samples where all of them would take too long."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_BLOCK = 4096  # bytes that lie together
_CHUNK = 1 << 20  # numbers of 8 bytes that are summed at a time
_FINGERPRINT = 1 << 12  # bytes of each tensor


def alias(tensor: Tensor) -> Tensor:
    """A normal tensor over the same storage: autograd works on it where `tensor` is an inference
    tensor, which can be neither saved for a backward pass nor cloned without doubling the memory.
    """
    with torch.inference_mode(False), torch.no_grad():
        own = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        place = tensor.untyped_storage(), tensor.storage_offset()
        return own.set_(*place, tensor.size(), tensor.stride())


def sample(tensor: Tensor, limit: int | None) -> Tensor:
    """Evenly spaced blocks of a tensor's numbers, its end among them; (N,), about `limit` bytes.

    All of them where there are no more, or `limit` is None: then without a copy if they lie in one
    piece.
    """
    flat = alias(tensor).reshape(-1)
    if limit is None or flat.numel() * flat.element_size() <= limit:
        return flat
    # older torch can't put 8-bit floats together, but their bytes
    plain = flat.view(torch.uint8) if flat.element_size() == 1 else flat
    block = _BLOCK // flat.element_size()
    count = flat.numel() // block
    step = -(-count // max(1, limit // _BLOCK))
    rows = plain[: count * block].view(count, block)[::step]
    return torch.cat([rows.reshape(-1), plain[-block:]]).view(flat.dtype)


def checksums(tensors: Sequence[Tensor], limit: int | None) -> list[tuple[int, int]]:
    """Two 64-bit sums of the bytes of each tensor's `sample`: plain, and weighed by position.

    Any change of a single number, and any exchange of two, changes them; NaN is only bytes.
    """
    sums = [_sums(_bytes(sample(tensor, limit))) for tensor in tensors]
    found: dict[int, tuple[int, int]] = {}
    for places in _by_device(sums).values():  # one transfer for each device
        rows = torch.stack([sums[place] for place in places]).tolist()
        found.update({place: (row[0], row[1]) for place, row in zip(places, rows, strict=True)})
    return [found[place] for place in range(len(sums))]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hex digits, of names, dtypes, shapes and sampled bytes, wherever they lie."""
    names = sorted(tensors)
    pieces = [_bytes(sample(tensors[name], _FINGERPRINT)) for name in names]
    moved: dict[int, Tensor] = {}
    for places in _by_device(pieces).values():
        together = torch.cat([pieces[place] for place in places]).cpu()
        sizes = [len(pieces[place]) for place in places]
        moved.update(zip(places, together.split(sizes), strict=True))
    digest = hashlib.sha256()
    for place, name in enumerate(names):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(moved[place].numpy().tobytes())
    return digest.hexdigest()


def _by_device(tensors: Sequence[Tensor]) -> dict[torch.device, list[int]]:
    places: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(place)
    return places


def _bytes(flat: Tensor) -> Tensor:
    return flat.contiguous().view(torch.uint8)


def _sums(data: Tensor) -> Tensor:
    """(2,) of bytes (N,), int64 that wraps around."""
    total = torch.zeros(2, dtype=torch.int64, device=data.device)
    whole = data.numel() // 8
    for start in range(0, whole, _CHUNK):
        piece = data[8 * start : 8 * min(whole, start + _CHUNK)]
        numbers = (piece if piece.storage_offset() % 8 == 0 else piece.clone()).view(torch.int64)
        weights = torch.arange(start + 1, start + 1 + len(numbers), device=data.device)
        total += torch.stack([numbers.sum(), (numbers * weights).sum()])
    rest = data[8 * whole :].to(torch.int64)
    weights = torch.arange(1, 1 + len(rest), device=data.device) * 0x1000193
    return total + torch.stack([rest.sum(), (rest * weights).sum()])
