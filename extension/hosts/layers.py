"""Lends a host's networks those layers of a borrowed base model in which LoRAs act.

The host's network keeps its own structure and its own forward pass; only layers whose weight the
borrowed model shares are put in the place of the host's for a while. They are found by where
their numbers lie in memory, so that no host's names need to be known.

Shapes: L positions, B batch, C channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.session import BaseModel, acting_layers, autocast_dtype, compute_as_given


class _Place(NamedTuple):
    parent: nn.Module
    name: str
    layer: nn.Module


@contextmanager
def lent_layers(base: BaseModel, networks: Sequence[nn.Module], title: str) -> Iterator[None]:
    """Have the host's `networks` compute with the layers in which LoRAs act on `base`.

    Afterwards, also after an error, the host has its own. title: the host's, for ConfigError where
    it holds such a layer elsewhere or in another form.
    """
    places, fused = _places(networks), _fused(networks)
    with ExitStack() as undo:
        missing = []
        for layer, weight, attention in acting_layers(base.parts):
            start = weight.data_ptr()
            found = places.get(start, [])
            for place in found:
                _put(place, Lent(layer, place.layer), undo)
            owners = [fused[p] for p in _pointers(attention) if p in fused]
            for owner in dict.fromkeys(owners):
                _attend_with(owner, attention, undo)
            if not found and not owners:
                missing.append(layer)
        if missing:
            raise _not_shared(title, f"{len(missing)} of the layers that the LoRA changes")
        yield


def require_shared(base: BaseModel, networks: Sequence[nn.Module], title: str) -> None:
    """Raise ConfigError where the borrowed model has copies of what the host's networks hold."""
    weight = base.unet.conv_out.weight
    if weight.data_ptr() not in _places(networks):
        raise _not_shared(title, "the model's layers")


def _not_shared(title: str, what: str) -> ConfigError:
    return ConfigError(
        f"preview.host_sampler: {title} holds {what} elsewhere or in another form, as in its "
        "low-memory modes; leave it empty, preview.sampler draws then"
    )


class Lent(nn.Module):
    """A layer of a borrowed model in the place of a host's, computing in the dtype that this would.

    Its parameters and attributes are those of the layer that it stands in for, so that whoever
    looks at the host's network finds what was there before.
    """

    def __init__(self, layer: nn.Module, own: nn.Module | None = None) -> None:
        super().__init__()
        for name, parameter in own.named_parameters(recurse=False) if own is not None else ():
            self.register_parameter(name, parameter)
        # neither is a child: the host must not move or count them
        self.__dict__.update(_layer=layer, _own=own)

    def __getattr__(self, name: str) -> Any:
        """What is not found here is asked of the host's layer."""
        own = self.__dict__.get("_own")
        if own is None or name in self.__dict__.get("_parameters", ()):
            return super().__getattr__(name)
        return getattr(own, name)

    def forward(self, x: Tensor, *_scale: Any) -> Tensor:
        """Return the layer's output, in the dtype of an autocast or else in that of x."""
        x = x.to(autocast_dtype(x.device.type) or x.dtype)
        # what a network keeps of its numbers must not become unfit for training
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):
            return compute_as_given(self.__dict__["_layer"], x).to(x.dtype)


def _places(networks: Sequence[nn.Module]) -> dict[int, list[_Place]]:
    """The host's layers by where their weights begin."""
    places: dict[int, list[_Place]] = {}
    for parent in _modules(networks):
        for name, layer in parent.named_children():
            weight = layer._parameters.get("weight")  # noqa: SLF001  (its own, not a wrapper's)
            if weight is not None and weight.numel():
                places.setdefault(weight.data_ptr(), []).append(_Place(parent, name, layer))
    return places


def _fused(networks: Sequence[nn.Module]) -> dict[int, nn.MultiheadAttention]:
    """Attentions that compute with their tensors, not with layers, by where these begin."""
    return {
        weight.data_ptr(): module
        for module in _modules(networks)
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
        for weight in (module.in_proj_weight, module.out_proj.weight)
    }


def _modules(networks: Sequence[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(module for network in networks for module in network.modules()))


def _pointers(attention: nn.Module | None) -> list[int]:
    if attention is None:
        return []
    layers = [getattr(attention, name, None) for name in ("q_proj", "out_proj")]
    return [weight.data_ptr() for layer in layers if (weight := _weight(layer)) is not None]


def _weight(layer: Any) -> Tensor | None:
    return getattr(layer, "weight", None)


def _put(place: _Place, layer: nn.Module, undo: ExitStack) -> None:
    undo.callback(setattr, place.parent, place.name, place.layer)
    setattr(place.parent, place.name, layer)


def _attend_with(owner: nn.MultiheadAttention, attention: Any, undo: ExitStack) -> None:
    """Have an attention compute with the layers of a borrowed one."""
    if "forward" in owner.__dict__:
        return
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    projections = [Lent(getattr(attention, name)) for name in names]

    def forward(
        x: Tensor, _key: Tensor, _value: Tensor, *, attn_mask: Tensor | None = None, **_others: Any
    ) -> tuple[Tensor, None]:
        """Self-attention over (L, B, C), or (B, L, C) where the owner is told so."""
        q, k, v = (
            _heads(projection(x), owner.num_heads, owner.batch_first)
            for projection in projections[:3]
        )
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return projections[3](mixed if owner.batch_first else mixed.transpose(0, 1)), None

    undo.callback(owner.__dict__.pop, "forward")
    owner.__dict__["forward"] = forward


def _heads(x: Tensor, heads: int, batch_first: bool) -> Tensor:
    """(L, B, C) or (B, L, C) to (B, heads, L, C / heads)."""
    rows = x if batch_first else x.transpose(0, 1)
    return rows.unflatten(2, (heads, -1)).transpose(1, 2)
