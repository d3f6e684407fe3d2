"""A small residual block as one step of autograd, backward pass by hand.

As with transformer blocks (`small_block.py`): on a small model autograd's bookkeeping costs as much
as the arithmetic. Two things are quicker here beside it. The frozen convolutions' weights are kept
as oneDNN lays them out for itself, which otherwise each call does anew, and once more turned round,
so that the gradient of the input is a convolution too. And norms compute in fp32: in bf16 they are
three times as slow where feature maps are laid out by channels.

The packed weights take twice the convolutions' memory, 40 MB for the embedded model in fp32. They
are made at the first use and again where a weight is replaced or written to through torch.

Shapes: B batch, C channels in, O channels out, h and w of the feature map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..adapters.updates import autocast_dtype
from .casting import CastConv2d
from .small_norms import GroupNorm


class _Conv(NamedTuple):
    """A frozen convolution that keeps the size of its map, there and back."""

    there: Tensor  # packed (O, C, k, k)
    bias: Tensor | None
    back: Tensor  # packed (C, O, k, k)
    padding: list[int]
    dtype: torch.dtype


class ResidualTensors(NamedTuple):
    """All weights of a block but the timestep's."""

    norm1: GroupNorm
    conv1: _Conv
    norm2: GroupNorm
    conv2: _Conv
    shortcut: _Conv | None


class Packed:
    """A residual block's packed weights, made where they are missing or no longer its own."""

    def __init__(self) -> None:
        self._tensors: ResidualTensors | None = None
        self._made_of: list[tuple[int, ...]] = []

    def __deepcopy__(self, _memo: dict[int, Any]) -> Packed:
        """A copy makes its own: packed tensors can't be copied."""
        return Packed()

    def of(self, block: Any, x: Tensor) -> ResidualTensors | None:
        """Give the weights for maps like x; None where this block is not one to compute here.

        That is, where a layer carries an adapter, has other shapes or where torch lacks oneDNN.
        """
        layers = [block.norm1, block.conv1, block.norm2, block.conv2]
        if block.conv_shortcut is not None:
            layers.append(block.conv_shortcut)
        if autocast_dtype(x.device.type) is not None:
            return None
        made_of = [_stamp(layer) for layer in layers]
        if made_of != self._made_of:
            fits = can_pack() and all(map(_is_plain, layers))
            self._tensors, self._made_of = _packed(block, x) if fits else None, made_of
        return self._tensors


def _stamp(layer: Any) -> tuple[int, ...]:
    """What changes where a layer or its weight is replaced, moved, written to or trained."""
    weight = layer.weight
    return (
        *(id(layer), id(weight), weight.data_ptr()),
        *(weight._version, weight.requires_grad),  # noqa: SLF001  (its only name)
    )


def can_pack() -> bool:
    """Whether this torch can keep weights as oneDNN lays them out."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )


def small_residual(x: Tensor, shift: Tensor, weights: ResidualTensors) -> Tensor:
    """Return the block's output (B, O, h, w) in x's dtype.

    x: (B, C, h, w); shift: (B, O), what the timestep adds between the convolutions, frozen.
    """
    return _Residual.apply(x, shift, weights)


class _Residual(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, weights: ResidualTensors) -> Tensor:
        w, x0 = weights, x.float()
        n1, mean1, rstd1 = w.norm1.apply(x0)
        c1 = _convolved(F.silu(n1), w.conv1).add_(shift[:, :, None, None])
        n2, mean2, rstd2 = w.norm2.apply(c1)
        c2 = _convolved(F.silu(n2), w.conv2)
        ctx.weights, ctx.dtype = weights, x.dtype
        ctx.save_for_backward(x0, n1, mean1, rstd1, c1, n2, mean2, rstd2)
        return c2.add_(x0 if w.shortcut is None else _convolved(x0, w.shortcut)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, None, None]:
        w: ResidualTensors = ctx.weights
        x0, n1, mean1, rstd1, c1, n2, mean2, rstd2 = ctx.saved_tensors
        d_out = grad_outputs[0].float()
        d_n2 = torch.ops.aten.silu_backward(_back(d_out, w.conv2), n2)
        d_c1 = w.norm2.back(d_n2, c1, mean2, rstd2)
        d_n1 = torch.ops.aten.silu_backward(_back(d_c1, w.conv1), n1)
        d_x = w.norm1.back(d_n1, x0, mean1, rstd1)
        d_x.add_(d_out if w.shortcut is None else _back(d_out, w.shortcut))
        return d_x.to(ctx.dtype), None, None


def _convolved(x: Tensor, conv: _Conv) -> Tensor:
    """The convolution of x (B, C, h, w), fp32 in and out."""
    return _pointwise(x.to(conv.dtype), conv.there, conv.bias, conv.padding).float()


def _back(grad: Tensor, conv: _Conv) -> Tensor:
    """The gradient of the convolution's input, fp32 in and out."""
    return _pointwise(grad.to(conv.dtype), conv.back, None, conv.padding).float()


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    convolution = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001  (its only name)
    return convolution(x, weight, bias, padding, [1, 1], [1, 1], 1, "none", [], "")


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is frozen, and a group norm or a convolution that keeps its map's size."""
    if type(layer) is nn.GroupNorm:
        return layer.affine and not layer.weight.requires_grad
    if type(layer) not in (nn.Conv2d, CastConv2d):
        return False
    if not isinstance(layer, nn.Conv2d) or layer.weight.requires_grad or layer.groups != 1:
        return False
    sides = zip(layer.kernel_size, layer.padding, strict=True)
    kept = all(not isinstance(pad, str) and side == 2 * pad + 1 for side, pad in sides)
    return kept and layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"


def _packed(block: Any, x: Tensor) -> ResidualTensors:
    size = [len(x), 0, *x.shape[2:]]
    shortcut = block.conv_shortcut
    return ResidualTensors(
        GroupNorm.of(block.norm1),
        _conv(block.conv1, size),
        GroupNorm.of(block.norm2),
        _conv(block.conv2, size),
        None if shortcut is None else _conv(shortcut, size),
    )


def _conv(layer: nn.Conv2d, size: list[int]) -> _Conv:
    compute = layer.compute if isinstance(layer, CastConv2d) else layer.weight.dtype
    dtype = compute if compute == torch.bfloat16 and _has_bf16() else torch.float32
    weight = layer.weight.detach().to(compute).to(dtype)
    turned = weight.flip(2, 3).transpose(0, 1)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    padding = [int(pad) for pad in layer.padding]
    return _Conv(_pack(weight, padding, size), bias, _pack(turned, padding, size), padding, dtype)


def _pack(weight: Tensor, padding: list[int], size: list[int]) -> Tensor:
    """Lay a weight out for maps of this size; those of others are served too, if not as quickly."""
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    batch, _, *sides = size
    plain = weight.contiguous().to_mkldnn()
    return reorder(plain, padding, [1, 1], [1, 1], 1, [batch, weight.shape[1], *sides])


def _has_bf16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (its only name)
