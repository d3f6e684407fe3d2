"""Layers that compute in another dtype than their weight is stored in.

The weight is converted at each use and the converted one is dropped at once: autograd keeps the
stored weight, not a second copy of the whole model. For frozen weights only, which get no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


class CastLinear(nn.Linear):
    """A linear layer that computes in `compute`; x: (..., I), result (..., O) in that dtype."""

    compute: torch.dtype

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Linear)
        """Return the layer's output."""
        x = input.to(self.compute)
        bias = None if self.bias is None else self.bias.to(self.compute)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Linear.apply(x, self.weight, bias)
        return F.linear(x, self.weight.to(self.compute), bias)


class CastConv2d(nn.Conv2d):
    """A convolution that computes in `compute`; x: (B, I, h, w)."""

    compute: torch.dtype

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Conv2d)
        """Return the layer's output."""
        x = input.to(self.compute)
        bias = None if self.bias is None else self.bias.to(self.compute)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Convolution.apply(x, self.weight, bias, self)
        return self._conv_forward(x, self.weight.to(self.compute), bias)


class CastEmbedding(nn.Embedding):
    """A table whose rows are given in `compute`; ids (...), result (..., C)."""

    compute: torch.dtype

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Embedding)
        """Return the rows."""
        weight = self.weight
        if weight.element_size() == 1:  # no kernel picks rows of 8-bit numbers but of plain bytes
            rows = F.embedding(input, weight.view(torch.uint8)).view(weight.dtype)
            return rows.to(self.compute)
        return F.embedding(input, weight).to(self.compute)


_CASTING = {nn.Linear: CastLinear, nn.Conv2d: CastConv2d, nn.Embedding: CastEmbedding}


def cast_at_use(network: nn.Module, compute: torch.dtype) -> int:
    """Make those layers of `network` casting ones whose weight is of another dtype than `compute`.

    The layers are replaced, over the same parameters. Return the bytes of the largest weight as
    converted, which is held beside the stored ones while it is used. RuntimeError for a layer of a
    kind that is not known here.
    """
    largest = 0
    for name, layer in list(network.named_modules()):
        weight = layer._parameters.get("weight")  # noqa: SLF001  (its own, not a descriptor's)
        if weight is None or weight.dtype == compute:
            continue
        kind = next((kind for kind in _CASTING if type(layer).forward is kind.forward), None)
        if kind is None:
            raise RuntimeError(f"layer {name!r} can't cast its weight: {type(layer).__name__}")
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _casting(layer, _CASTING[kind], compute))
        if kind is not nn.Embedding:  # of which only the rows asked for are converted
            largest = max(largest, weight.numel() * compute.itemsize)
    return largest


def _casting(layer: nn.Module, kind: Any, compute: torch.dtype) -> nn.Module:
    """A module of `kind` with the attributes and parameters of `layer`."""
    cast = kind.__new__(kind)
    cast.__dict__.update(layer.__dict__)
    cast.compute = compute
    return cast


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight, ctx.dtype = weight, x.dtype
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        return grad_outputs[0] @ ctx.weight.to(ctx.dtype), None, None


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: CastConv2d
    ) -> Tensor:
        ctx.weight, ctx.dtype, ctx.shape = weight, x.dtype, x.shape
        geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)
        ctx.geometry = geometry
        return F.conv2d(x, weight.to(x.dtype), bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None, None]:
        weight = ctx.weight.to(ctx.dtype)
        return conv2d_input(ctx.shape, weight, grad_outputs[0], *ctx.geometry), None, None, None
