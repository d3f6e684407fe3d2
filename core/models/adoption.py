"""A base model over a host's own storages: no weight exists twice, and the host is not touched.

Our networks are built on the meta device, and their parameters become normal tensors over the
host's storages, renamed and viewed. What can't be shared as it is:

- what lies on another device than the run's is copied there for the run;
- what is stored in another dtype than the run computes in is shared, and converted at each use,
  layer by layer (`casting`); only vectors (norms, biases), a thousandth of a model, are converted
  once.

Both are counted. Weights that only the host can read are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..config.base import BaseConfig
from ..errors import CheckpointError, ConfigError
from . import build
from .base_model import (
    VAE_DTYPE,
    BaseFacts,
    BaseModel,
    Loan,
    outline_checkpoint,
    resolve_facts,
)
from .casting import cast_at_use
from .checkpoint import Checkpoint
from .filling import Part, Placement, give_weights
from .live import LiveFacts, LiveModel
from .receipt import Receipt, unchanged
from .samples import alias, fingerprint, sample

_LOOKED_AT = 1 << 14  # bytes of each weight that must be finite numbers

Choose = Callable[[torch.dtype], torch.dtype]
"""From the dtype of the host's U-Net to the one that the run computes in."""


@contextmanager
def adopted(
    live: LiveModel, config: BaseConfig, device: torch.device, choose: Choose
) -> Iterator[BaseModel]:
    """A base model over the host's weights for the length of a with block; empty after it.

    Raises CheckpointError and ConfigError as loading the same file would; HostChangedError at the
    end where the host's model is not as it was.
    """
    if config.vae:
        raise ConfigError(
            f"base.vae is {config.vae}, but {live.facts.name} is the host's own model with the VAE "
            "that the host has loaded: leave base.vae empty, and choose the VAE in the host"
        )
    with live.facts.prepared():
        tensors = live.tensors()
        with unchanged(live) as receipt:
            with torch.inference_mode(False):
                base = _adopt(live.facts, tensors, config, device, choose, receipt)
            del tensors
            try:
                yield base
            finally:
                base.forget_weights()


def _adopt(
    known: LiveFacts,
    tensors: Mapping[str, Tensor],
    config: BaseConfig,
    device: torch.device,
    choose: Choose,
    receipt: Receipt,
) -> BaseModel:
    checkpoint = _as_checkpoint(known, tensors)
    outline = outline_checkpoint(checkpoint, _facts(checkpoint, known, config))
    # "cuda" is whichever of them is current; a tensor says which one
    device = torch.empty(0, device=device).device
    first = outline.parts["unet"].tensors["conv_in.weight"]
    dtype = choose(tensors[first.name].dtype)
    own_bytes = 0
    for name, part in outline.parts.items():
        placement = Placement(device, VAE_DTYPE if name == "vae" else dtype)
        own_bytes += _give(part, checkpoint, placement)
    build.use_quick_attention(outline.networks["unet"], device)
    build.use_quick_layout(outline.networks["unet"], device, own_weights=False)
    used = {place.name for part in outline.parts.values() for place in part.tensors.values()}
    loan = Loan(
        outline=outline,
        dtype=dtype,
        sha256=known.sha256,
        identity=fingerprint({name: tensors[name] for name in used}),
        own_bytes=own_bytes,
        changes=receipt.glance,
        rested=receipt.renew,
    )
    return BaseModel(outline.networks, outline.facts, loan)


def _facts(checkpoint: Checkpoint, known: LiveFacts, config: BaseConfig) -> BaseFacts:
    """What the user says, else what the host says, else what names and metadata say."""
    prediction = config.prediction
    if prediction == "auto" and known.prediction is not None:
        prediction = known.prediction
    zero: Literal["auto", "yes", "no"] = config.zero_terminal_snr
    if zero == "auto" and known.zero_terminal_snr is not None:
        zero = "yes" if known.zero_terminal_snr else "no"
    return resolve_facts(checkpoint, prediction, zero)


def _as_checkpoint(known: LiveFacts, tensors: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(
        path=known.path or Path(known.name),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        metadata=known.metadata,
        tensor=lambda name: alias(tensors[name]),
    )


def _give(part: Part, checkpoint: Checkpoint, placement: Placement) -> int:
    """Give a network its weights; return the bytes that they take beside the host's.

    Raises CheckpointError for weights that are not finite numbers.
    """
    state: dict[str, Tensor] = {}
    own_bytes = 0
    for own, tensor in part.network.state_dict().items():
        if own not in part.tensors:
            continue
        place = part.tensors[own]
        weight = place.read(checkpoint)
        if not bool(torch.isfinite(sample(weight, _LOOKED_AT).to(placement.dtype)).all()):
            raise CheckpointError(
                f"{checkpoint.path}: weight {place.name!r} of its {part.title} is not finite as "
                f"{placement.dtype}; the model is damaged: load another one in the host, or set "
                "memory.precision to fp32 or bf16"
            )
        shaped = weight if weight.shape == tensor.shape else weight.reshape(tensor.shape)
        lent = _lend(shaped, placement)
        if lent.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
            own_bytes += lent.numel() * lent.element_size()
        state[own] = nn.Parameter(lent, requires_grad=False)
    give_weights(part.network, state, placement.device)
    return own_bytes + cast_at_use(part.network, placement.dtype)


def _lend(weight: Tensor, placement: Placement) -> Tensor:
    """The weight itself where it can be shared, else converted or moved; see the file's top."""
    dtype = weight.dtype
    is_vector = weight.dim() < 2
    is_elsewhere = weight.device != placement.device
    if is_vector or (is_elsewhere and placement.dtype.itemsize <= dtype.itemsize):
        dtype = placement.dtype
    return weight.to(placement.device, dtype)
