"""Frozen layer plus low-rank update as one autograd step: the arithmetic of the hot path.

Written for speed and memory. For a large layer the matrix product itself adds the update onto the
base's output, and in the backward pass onto the base's input gradient, so that no further full-size
tensor exists; only x and the rank-wide hidden tensor are kept for the backward pass; the frozen
weight gets no gradient; the factor is applied by the product or to rank-wide tensors. Where x needs
no gradient, none is computed. Small layers of a network have a quicker way (`merged.py`).

Shapes: R rank, I input channels, O output channels, B batch, P positions (height x width).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

_Grads = tuple[Tensor | None, Tensor | None, Tensor | None, None, None]


def linear(x: Tensor, down: Tensor, up: Tensor, base: nn.Linear, factor: float) -> Tensor:
    """Return base(x) + factor * x @ down.T @ up.T, all of one dtype.

    x: (..., I), down: (R, I), up: (O, R), result: (..., O).
    """
    if torch.is_grad_enabled():
        return _Linear.apply(x, down, up, base, factor)
    return _linear_forward(x, down, up, base, factor)[0]


def convolution(x: Tensor, down: Tensor, up: Tensor, base: nn.Conv2d, factor: float) -> Tensor:
    """Return base(x) + factor * up(down(x)), all of one dtype.

    x: (B, I, height, width), down: (R, I, kh, kw), up: (O, R, 1, 1); down takes the base's stride,
    padding and dilation.
    """
    if torch.is_grad_enabled():
        return _Convolution.apply(x, down, up, base, factor)
    return _convolution_forward(x, down, up, base, factor)[0]


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the dtype of the autocast active on this kind of device, None where there is none."""
    if hasattr(torch, "get_autocast_dtype"):  # torch 2.4 and later, for every kind of device
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor.mul_(factor)


def _linear_forward(
    x: Tensor, down: Tensor, up: Tensor, base: nn.Linear, factor: float
) -> tuple[Tensor, Tensor]:
    bias = base.bias if base.bias is None else base.bias.to(x.dtype)
    y = F.linear(x, base.weight.to(x.dtype), bias)
    hidden = x.reshape(-1, x.shape[-1]) @ down.t()
    rows = y.reshape(-1, y.shape[-1]).addmm_(hidden, up.t(), alpha=factor)
    return rows.view(y.shape), hidden


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Linear, factor: float
    ) -> Tensor:
        y, hidden = _linear_forward(x, down, up, base, factor)
        ctx.save_for_backward(x, hidden, down, up)
        ctx.base, ctx.factor = base, factor
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> _Grads:
        (grad,) = grad_outputs
        x, hidden, down, up = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        x_grad = down_grad = up_grad = None
        hidden_grad = _times(grad_rows @ up, ctx.factor)
        if ctx.needs_input_grad[2]:
            up_grad = _times(hidden.t() @ grad_rows, ctx.factor).t()
        if ctx.needs_input_grad[1]:
            down_grad = hidden_grad.t() @ x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[0]:
            x_grad = grad_rows @ ctx.base.weight.to(grad.dtype)
            x_grad = x_grad.addmm_(hidden_grad, down).view(x.shape)
        return x_grad, down_grad, up_grad, None, None


def _is_pointwise(base: nn.Conv2d) -> bool:
    """Whether the convolution is a matrix product per position (SD1's proj_in and proj_out)."""
    return base.kernel_size == base.stride == (1, 1) and base.padding == (0, 0)


def _geometry(base: nn.Conv2d) -> tuple[Any, Any, Any]:
    return base.stride, base.padding, base.dilation


def _spread(matrix: Tensor, batch: int) -> Tensor:
    """Repeat a matrix along a new first dimension without a copy."""
    return matrix.flatten(1).expand(batch, -1, -1)


def _hidden(x: Tensor, down: Tensor, base: nn.Conv2d) -> Tensor:
    """Return down(x), (B, R, P)."""
    if _is_pointwise(base):
        return torch.bmm(_spread(down, len(x)), x.flatten(2))
    return F.conv2d(x, down, None, *_geometry(base)).flatten(2)


def _convolution_forward(
    x: Tensor, down: Tensor, up: Tensor, base: nn.Conv2d, factor: float
) -> tuple[Tensor, Tensor]:
    bias = base.bias if base.bias is None else base.bias.to(x.dtype)
    weight = base.weight.to(x.dtype)
    y = F.conv2d(x, weight, bias, *_geometry(base))
    hidden = _hidden(x, down, base)
    flat = y.flatten(2).baddbmm_(_spread(up, len(x)), hidden, alpha=factor)
    return flat.view(y.shape), hidden


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Conv2d, factor: float
    ) -> Tensor:
        y, hidden = _convolution_forward(x, down, up, base, factor)
        ctx.save_for_backward(x, hidden, down, up)
        ctx.base, ctx.factor = base, factor
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> _Grads:
        (grad,) = grad_outputs
        x, hidden, down, up = ctx.saved_tensors
        grad_flat = grad.flatten(2)
        x_grad = down_grad = up_grad = None
        up_t = _spread(up, len(x)).transpose(1, 2)
        hidden_grad = _times(torch.bmm(up_t, grad_flat), ctx.factor)
        if ctx.needs_input_grad[2]:
            up_grad = torch.bmm(grad_flat, hidden.transpose(1, 2)).sum(0)
            up_grad = _times(up_grad, ctx.factor).view(up.shape)
        hidden_grad = hidden_grad.view(len(x), len(down), *grad.shape[2:])
        if ctx.needs_input_grad[1]:
            down_grad = _down_grad(x, hidden_grad, down, ctx.base)
        if ctx.needs_input_grad[0]:
            x_grad = _input_grad(x, grad, hidden_grad, down, ctx.base)
        return x_grad, down_grad, up_grad, None, None


def _down_grad(x: Tensor, hidden_grad: Tensor, down: Tensor, base: nn.Conv2d) -> Tensor:
    """Return the gradient of down, summed over the batch."""
    if not _is_pointwise(base):
        return conv2d_weight(x, down.shape, hidden_grad, *_geometry(base))
    x_t = x.flatten(2).transpose(1, 2)
    return torch.bmm(hidden_grad.flatten(2), x_t).sum(0).view(down.shape)


def _input_grad(
    x: Tensor, grad: Tensor, hidden_grad: Tensor, down: Tensor, base: nn.Conv2d
) -> Tensor:
    """Return the gradient of x through the frozen convolution and through the update."""
    weight = base.weight.to(grad.dtype)
    if not _is_pointwise(base):
        through_base = conv2d_input(x.shape, weight, grad, *_geometry(base))
        return through_base.add_(conv2d_input(x.shape, down, hidden_grad, *_geometry(base)))
    through_base = torch.bmm(_spread(weight, len(x)).transpose(1, 2), grad.flatten(2))
    down_t = _spread(down, len(x)).transpose(1, 2)
    return through_base.baddbmm_(down_t, hidden_grad.flatten(2)).view(x.shape)
