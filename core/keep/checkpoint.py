"""A network folded into a checkpoint: a base model that draws as the two do together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.forms import Update
from ..errors import CheckpointError, ConfigError
from ..files.atomic import write_atomic
from ..files.network_file import DTYPES
from ..files.serialise import content_hash, tensor_hash, write_file
from ..models.stored_weights import StoredWeights
from .combine import Ingredient

_KEPT = torch.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCheckpoint:
    """A checkpoint that was written: sha256 is of the whole file."""

    path: Path
    bytes: int
    layers: int
    sha256: str


def fold_into_checkpoint(
    weights: StoredWeights,
    ingredients: Sequence[Ingredient],
    output: Path,
    *,
    precision: str = "",
    overwrite: bool = False,
) -> WrittenCheckpoint:
    """Write the checkpoint with networks, by path, in it. Sums are fp32 whatever is stored.

    precision: "fp16", "bf16", "fp32"; "" keeps each tensor's own. The metadata's hash is computed
    anew. Raises ConfigError where an update does not fit, FileError where it can't be written, and
    CheckpointError for sums that the precision can't hold.
    """
    checkpoint = weights.checkpoint
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.shapes}
    sums = _sums(weights, tensors, ingredients)
    dtype = DTYPES.get(precision)
    for name, tensor in tensors.items():
        wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        tensors[name] = _kept(weights, name, sums.pop(name, tensor), wanted)
    metadata = {k: v for k, v in checkpoint.metadata.items() if not k.endswith("hash_sha256")}
    metadata |= {"modelspec.hash_sha256": f"0x{tensor_hash(tensors)}"}
    write_atomic(output, lambda draft: write_file(draft, tensors, metadata), overwrite=overwrite)
    return WrittenCheckpoint(
        path=output,
        bytes=output.stat().st_size,
        layers=len({path for one in ingredients for path in one.updates}),
        sha256=content_hash(tensors, metadata),
    )


def _sums(
    weights: StoredWeights, tensors: Mapping[str, Tensor], ingredients: Sequence[Ingredient]
) -> dict[str, Tensor]:
    """The changed tensors by the checkpoint's names, fp32."""
    sums: dict[str, Tensor] = {}
    for ingredient in ingredients:
        for path, update in ingredient.updates.items():
            ratio = ingredient.strength.of(path)
            if ratio == 0:
                continue
            for name, delta in _deltas(weights, path, update).items():
                place = weights.place(path, name)
                if place.name not in sums:
                    sums[place.name] = tensors[place.name].to(_KEPT, copy=True)
                own = place.place.view(sums[place.name])
                own += ratio * delta.reshape(own.shape)
    if not sums:
        raise ConfigError("nothing is left to fold: every network is turned off everywhere")
    return sums


def _deltas(weights: StoredWeights, path: str, update: Update) -> dict[str, Tensor]:
    found = {"weight": update.delta(weights.tensor(path).float()), "bias": update.bias_delta()}
    return {name: delta for name, delta in found.items() if delta is not None}


def _kept(weights: StoredWeights, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    kept = tensor.to(dtype)
    if kept.is_floating_point() and not bool(torch.isfinite(kept).all()):
        raise CheckpointError(
            f"{weights.path}: with the network in it, {name} holds numbers that {dtype} can't "
            "hold; choose bf16 or fp32, or a smaller strength"
        )
    return kept.contiguous()
