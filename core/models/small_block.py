"""A small transformer block as one step of autograd, backward pass by hand.

On a small model autograd's bookkeeping, dozens of nodes a block, costs more than the arithmetic.
Where all layers of a block are merged (`adapters/merged.py`), the block is computed here as a whole
in fp32, and the gradients of the merged weights go straight to where they are collected.

Shapes: B batch, N positions, M tokens of the text, C channels, E channels of the text, H heads,
D = C / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..adapters.lora import merged_weight

_INPUT_ONLY = [True, False, False]  # of a norm's gradients: its weight and bias are frozen


class _Norm(NamedTuple):
    """A layer norm's frozen weight and bias."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> _Norm:
        """A module's, in fp32."""
        return cls(norm.weight.float(), norm.bias.float(), norm.eps)


class BlockWeights(NamedTuple):
    """All weights of a block: merged ones, which collect their gradients, and frozen biases."""

    heads: int
    norms: tuple[_Norm, _Norm, _Norm]
    qkv: Tensor  # (3 C, C)
    out1: tuple[Tensor, Tensor]
    q2: Tensor  # (C, C)
    kv2: Tensor  # (2 C, E)
    out2: tuple[Tensor, Tensor]
    ff1: tuple[Tensor, Tensor]
    ff2: tuple[Tensor, Tensor]


def block_weights(block: Any) -> BlockWeights | None:
    """The weights of a transformer block whose layers are all merged and trained, else None."""
    first, second, net = block.attn1, block.attn2, block.ff.net
    found = [
        merged_weight((first.to_q, first.to_k, first.to_v)),
        merged_weight((first.to_out[0],), biased=True),
        merged_weight((second.to_q,)),
        merged_weight((second.to_k, second.to_v)),
        merged_weight((second.to_out[0],), biased=True),
        merged_weight((net[0].proj,), biased=True),
        merged_weight((net[2],), biased=True),
    ]
    merged = [weight for weight in found if weight is not None]
    if len(merged) < len(found):
        return None
    qkv, out1, q2, kv2, out2, ff1, ff2 = merged
    return BlockWeights(
        first.heads,
        (_Norm.of(block.norm1), _Norm.of(block.norm2), _Norm.of(block.norm3)),
        qkv,
        (out1, first.to_out[0].bias.float()),
        q2,
        kv2,
        (out2, second.to_out[0].bias.float()),
        (ff1, net[0].proj.bias.float()),
        (ff2, net[2].bias.float()),
    )


def small_block(x: Tensor, context: Tensor, weights: BlockWeights) -> Tensor:
    """Return the block's output (B, N, C) in x's dtype; x: (B, N, C), context: (B, M, E)."""
    return _Block.apply(x.float(), context.float(), weights.qkv, weights).to(x.dtype)


class _Block(Function):
    @staticmethod
    def forward(
        ctx: Any, x0: Tensor, context: Tensor, _anchor: Tensor, weights: BlockWeights
    ) -> Tensor:
        w, heads = weights, weights.heads
        n1, mean1, rstd1 = _norm(x0, w.norms[0])
        q1, k1, v1 = _split(F.linear(n1, w.qkv), heads, 3)
        p1, o1 = _attend(q1, k1, v1, len(x0))
        x1 = torch.add(x0, F.linear(o1, *w.out1))
        n2, mean2, rstd2 = _norm(x1, w.norms[1])
        (q2,) = _split(F.linear(n2, w.q2), heads, 1)
        k2, v2 = _split(F.linear(context, w.kv2), heads, 2)
        p2, o2 = _attend(q2, k2, v2, len(x0))
        x2 = torch.add(x1, F.linear(o2, *w.out2))
        n3, mean3, rstd3 = _norm(x2, w.norms[2])
        hidden = F.linear(n3, *w.ff1)
        values, gate = hidden.chunk(2, -1)
        opened = F.gelu(gate)
        mixed = values * opened
        ctx.weights = weights
        ctx.save_for_backward(
            *(context, x0, n1, mean1, rstd1, q1, k1, v1, p1, o1),
            *(x1, n2, mean2, rstd2, q2, k2, v2, p2, o2),
            *(x2, n3, mean3, rstd3, hidden, opened, mixed),
        )
        return torch.add(x2, F.linear(mixed, *w.ff2))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        w: BlockWeights = ctx.weights
        saved = ctx.saved_tensors
        context, x0, n1, mean1, rstd1, q1, k1, v1, p1, o1 = saved[:10]
        x1, n2, mean2, rstd2, q2, k2, v2, p2, o2 = saved[10:19]
        x2, n3, mean3, rstd3, hidden, opened, mixed = saved[19:]
        (d_out,) = grad_outputs
        d_mixed = _back(d_out, mixed, w.ff2[0])
        values, gate = hidden.chunk(2, -1)
        d_gate = torch.ops.aten.gelu_backward(d_mixed * values, gate)
        d_n3 = _back(torch.cat([d_mixed * opened, d_gate], -1), n3, w.ff1[0])
        d_x2 = _norm_back(d_n3, x2, mean3, rstd3, w.norms[2]).add_(d_out)

        d_q2, *d_kv2 = _attend_back(_back(d_x2, o2, w.out2[0]), q2, k2, v2, p2)
        d_context = _back(_joined(d_kv2, len(x0)), context, w.kv2, ctx.needs_input_grad[1])
        d_n2 = _back(_joined([d_q2], len(x0)), n2, w.q2)
        d_x1 = _norm_back(d_n2, x1, mean2, rstd2, w.norms[1]).add_(d_x2)

        d_qkv1 = _attend_back(_back(d_x1, o1, w.out1[0]), q1, k1, v1, p1)
        d_n1 = _back(_joined(d_qkv1, len(x0)), n1, w.qkv, ctx.needs_input_grad[0])
        if d_n1 is None:
            return None, d_context, None, None
        d_x0 = _norm_back(d_n1, x0, mean1, rstd1, w.norms[0]).add_(d_x1)
        return d_x0, d_context, None, None


def _norm(x: Tensor, norm: _Norm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _norm_back(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, norm: _Norm) -> Tensor:
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, x.shape[-1:], mean, rstd, norm.weight, norm.bias, _INPUT_ONLY
    )[0]


def _back(grad: Tensor, x: Tensor, weight: Any, wanted: bool = True) -> Any:
    """Collect the gradient of a merged weight, and return that of x where it is wanted."""
    rows = grad.reshape(-1, grad.shape[-1])
    weight.grad.addmm_(rows.t(), x.reshape(-1, x.shape[-1]))
    return (rows @ weight).view(x.shape) if wanted else None


def _split(x: Tensor, heads: int, count: int) -> Tensor:
    """(B, N, count * C) to (count, B * H, N, D)."""
    batch, positions, channels = x.shape
    parts = x.view(batch, positions, count, heads, channels // (count * heads))
    return parts.permute(2, 0, 3, 1, 4).reshape(count, batch * heads, positions, -1)


def _joined(parts: Sequence[Tensor], batch: int) -> Tensor:
    """Some (B * H, N, D) to (B, N, count * C)."""
    together = torch.stack(tuple(parts)) if len(parts) > 1 else parts[0][None]
    count, rows, positions, size = together.shape
    split = together.view(count, batch, rows // batch, positions, size)
    return split.permute(1, 3, 0, 2, 4).reshape(batch, positions, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Attention's weights (B * H, N, M) and its output (B, N, C)."""
    size = q.shape[-1]
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=size**-0.5)
    weights = scores.softmax(-1)
    return weights, _joined([torch.bmm(weights, v)], batch)


def _attend_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, of that of the output (B, N, C)."""
    (grad,) = _split(grad, len(q) // len(grad), 1)
    d_v = torch.bmm(weights.transpose(1, 2), grad)
    d_weights = torch.bmm(grad, v.transpose(1, 2))
    softmax_back = torch.ops.aten._softmax_backward_data  # noqa: SLF001  (its only name)
    d_scores = softmax_back(d_weights, weights, -1, weights.dtype)
    d_scores.mul_(q.shape[-1] ** -0.5)
    return torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q), d_v
