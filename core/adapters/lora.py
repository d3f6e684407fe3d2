"""LoRA on a frozen layer: the factors, the delta they stand for, and the layer that adds it.

Shape suffixes: R rank, I input channels, O output channels. For a convolution the factors have
four dimensions, as in a network file: down (R, I, kh, kw), up (O, R, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from . import merged, updates

if TYPE_CHECKING:
    from .live import LiveNetwork


class LoRAWeights(NamedTuple):
    """The two factors of one layer's update."""

    down_RI: Tensor  # noqa: N815
    up_OR: Tensor  # noqa: N815


class AdapterWeights(NamedTuple):
    """The factors of one layer with their alpha, as a network file holds them."""

    down_RI: Tensor  # noqa: N815
    up_OR: Tensor  # noqa: N815
    alpha: float

    @property
    def lora(self) -> LoRAWeights:
        """The factors alone."""
        return LoRAWeights(self.down_RI, self.up_OR)

    @property
    def rank(self) -> int:
        """The width of the factors."""
        return self.down_RI.shape[0]

    @property
    def scale(self) -> float:
        """Factor alpha / rank of the update."""
        return self.alpha / self.rank


def lora_delta(weights: LoRAWeights, scale: float) -> Tensor:
    """Return scale * up @ down in the shape of the layer's weight: (O, I) or (O, I, kh, kw)."""
    down, up = weights
    return scale * (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def init_lora(base: nn.Module, rank: int, generator: torch.Generator) -> LoRAWeights:
    """Draw the factors of an update that changes nothing yet, in fp32 on the generator's device.

    down is uniform within 1 / sqrt(fan-in), which is what kaiming_uniform with a = sqrt(5) draws;
    up is zero (Hu et al. 2021).
    """
    weight = weight_of(base)
    down_shape = (rank, *weight.shape[1:])
    bound = 1 / math.sqrt(weight[0].numel())
    down = (
        torch.rand(down_shape, generator=generator, device=generator.device) * (2 * bound) - bound
    )
    up = torch.zeros(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), device=generator.device)
    return LoRAWeights(down, up)


def weight_of(base: nn.Module) -> Tensor:
    """Return the weight of a layer that can carry an adapter: (O, I) or (O, I, kh, kw).

    ConfigError for any other layer.
    """
    if isinstance(base, nn.Linear) or (isinstance(base, nn.Conv2d) and _is_plain(base)):
        return base.weight
    raise ConfigError(
        f"an adapter needs a linear layer or a plain two-dimensional convolution, not {base}. "
        "Load the base model without quantisation and without tiling."
    )


def _is_plain(base: nn.Conv2d) -> bool:
    return base.groups == 1 and base.padding_mode == "zeros" and not isinstance(base.padding, str)


class LoRALayer(nn.Module):
    """A frozen layer with its LoRA update: base(x) + scale * strength * up(down(x)).

    The base is never changed and gets no gradient. `strength` is a plain number that may be set
    between two calls; at 0 the base's own output is returned untouched. The factors are the tensors
    given (a Parameter is shared, not copied) and may be of a wider dtype than the base: they are
    cast for the computation, and their gradients come back in their own dtype. `place`: where a
    network keeps this layer's updated weight, for small layers; they compute in fp32 with it.
    owner: the network that it is part of.
    """

    owner: LiveNetwork | None = None
    place: tuple[merged.MergedBank, int] | None = None

    def __init__(self, base: nn.Module, weights: LoRAWeights, scale: float, strength: float = 1.0):
        super().__init__()
        check_fit(base, weights)
        self.base = base
        self.down = _parameter(weights.down_RI)
        self.up = _parameter(weights.up_OR)
        self.scale = scale
        self.strength = strength
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The base's weight: libraries look at its dtype and device."""
        return weight_of(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias if isinstance(self.base, (nn.Linear, nn.Conv2d)) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted output. x: (..., I), for a convolution (B, I, height, width)."""
        factor = self.scale * self.strength
        if factor == 0:
            return self.base(x)
        dtype = updates.autocast_dtype(x.device.type)
        if dtype is None:
            dtype = x.dtype  # a base may compute in another dtype than its weight is stored in
            if self.place is not None and self._is_merged(self.place[0], dtype):
                return self._merged(x, *self.place)
        else:
            x = x.to(dtype)
        return self._update(x, self.down.to(dtype), self.up.to(dtype), factor)

    def _is_merged(self, bank: merged.MergedBank, dtype: torch.dtype) -> bool:
        """In training; without gradients only in fp32, so that no update is the base to the bit."""
        if torch.is_grad_enabled():
            return bank.collects
        return dtype == torch.float32

    def _update(self, x: Tensor, down: Tensor, up: Tensor, factor: float) -> Tensor:
        raise NotImplementedError

    def _merged(self, x: Tensor, bank: merged.MergedBank, index: int) -> Tensor:
        raise NotImplementedError


class LoRALinear(LoRALayer):
    """LoRA on nn.Linear."""

    base: nn.Linear

    def _update(self, x: Tensor, down: Tensor, up: Tensor, factor: float) -> Tensor:
        return updates.linear(x, down, up, self.base, factor)

    def _merged(self, x: Tensor, bank: merged.MergedBank, index: int) -> Tensor:
        return merged.linear(x, self.base, bank, index)


class LoRAConv(LoRALayer):
    """LoRA on nn.Conv2d: down with the base's kernel, stride, padding and dilation, up 1x1."""

    base: nn.Conv2d

    def _update(self, x: Tensor, down: Tensor, up: Tensor, factor: float) -> Tensor:
        return updates.convolution(x, down, up, self.base, factor)

    def _merged(self, x: Tensor, bank: merged.MergedBank, index: int) -> Tensor:
        return merged.convolution(x, self.base, bank, index)


def wrap(base: nn.Module, weights: LoRAWeights, scale: float, strength: float = 1.0) -> LoRALayer:
    """Return the adapted layer for a linear layer or a convolution."""
    kind = LoRALinear if isinstance(base, nn.Linear) else LoRAConv
    return kind(base, weights, scale, strength)


def project(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Return what each of the layers makes of x: (..., I), in one product where that can be."""
    weight = merged_weight(layers)
    if weight is None:
        return tuple(layer(x) for layer in layers)
    return merged.rows(x, weight).chunk(len(layers), -1)


def merged_weight(layers: Sequence[nn.Module], *, biased: bool = False) -> Tensor | None:
    """Return the layers' updated weights one below the other, if they lie so and all are trained.

    biased: whether the layers may have a bias. None without gradients: a fresh network shall give
    the base's own numbers, to the bit.
    """
    first = layers[0]
    if not isinstance(first, LoRALayer) or first.place is None or not torch.is_grad_enabled():
        return None
    bank, index = first.place
    if not bank.collects or updates.autocast_dtype(first.weight.device.type) is not None:
        return None
    for place, layer in enumerate(layers, index):
        if not isinstance(layer, LoRALayer) or layer.place != (bank, place):
            return None
        if layer.scale * layer.strength == 0 or (layer.bias is not None and not biased):
            return None
    return bank.span(index, len(layers))


def merged_memory(layers: Sequence[nn.Module]) -> dict[Any, Any] | None:
    """Bring the layers' updated weights up to date, and give a place to keep what is made of them.

    The same place as long as `merged_weight` gives the same tensors for these layers, else an
    empty one. None where a layer is not merged, or not trained now.
    """
    if not torch.is_grad_enabled():
        return None
    banks: dict[merged.MergedBank, None] = {}
    for layer in layers:
        if not isinstance(layer, LoRALayer) or layer.place is None:
            return None
        banks[layer.place[0]] = None
    first = next(iter(banks))
    if updates.autocast_dtype(first.device.type) is not None:
        return None
    for bank in banks:
        if not bank.collects:
            return None
        bank.refresh()
    state = (*map(id, layers), *(bank.epoch for bank in banks))
    return first.memory.setdefault(state, {})


def check_fit(base: nn.Module, weights: LoRAWeights) -> None:
    """Raise ConfigError unless the factors' shapes fit the layer's weight."""
    weight = weight_of(base)
    down, up = weights
    rank = down.shape[0] if down.dim() else 0
    ones = (1,) * (weight.dim() - 2)
    fits = down.shape[1:] == weight.shape[1:] and up.shape == (weight.shape[0], rank, *ones)
    if rank < 1 or not fits:
        raise ConfigError(
            f"factors of shape {tuple(down.shape)} and {tuple(up.shape)} do not fit a layer whose "
            f"weight is {tuple(weight.shape)}: the network was made for another base model. "
            "Use the one it was trained on."
        )


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
