"""Frozen norms with their backward pass at hand, for small blocks that do without autograd.

Always fp32: torch's group norm in bf16 is three times as slow where maps are laid out by channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_INPUT_ONLY = [True, False, False]  # of the gradients: weight and bias are frozen


class LayerNorm(NamedTuple):
    """A layer norm over the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> LayerNorm:
        """A module's, in fp32."""
        return cls(norm.weight.float(), norm.bias.float(), norm.eps)

    def apply(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give x normed, its means and one over its deviations."""
        return torch.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def back(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """Give the gradient of x."""
        return torch.ops.aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, rstd, self.weight, self.bias, _INPUT_ONLY
        )[0]


class GroupNorm(NamedTuple):
    """A group norm over maps (B, C, h, w)."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> GroupNorm:
        """A module's, in fp32."""
        return cls(norm.weight.float(), norm.bias.float(), norm.num_groups, norm.eps)

    def apply(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give x normed, its means and one over its deviations."""
        x, (batch, channels, height, width) = _dense(x, x), x.shape
        sizes = (batch, channels, height * width, self.groups)
        return torch.native_group_norm(x, self.weight, self.bias, *sizes, self.eps)

    def back(self, grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """Give the gradient of x."""
        grad, x, (batch, channels, height, width) = _dense(grad, x), _dense(x, x), x.shape
        sizes = (batch, channels, height * width, self.groups)
        return torch.ops.aten.native_group_norm_backward(
            grad, x, mean, rstd, self.weight, *sizes, _INPUT_ONLY
        )[0]


def _dense(maps: Tensor, like: Tensor) -> Tensor:
    """Maps in the layout of `like`: the kernel trusts them to be alike, and does not look."""
    by_channels = like.is_contiguous(memory_format=torch.channels_last)
    if by_channels and not like.is_contiguous():
        return maps.contiguous(memory_format=torch.channels_last)
    return maps.contiguous()
