"""A small spatial transformer as one step of autograd, backward pass by hand.

On a small model autograd's bookkeeping, dozens of nodes a block, costs more than the arithmetic.
Where all layers of a transformer are merged (`adapters/merged.py`), it is computed here as a whole
in fp32, and the gradients of the merged weights go straight to where they are collected.

Shapes: B batch, N positions (height x width), M tokens of the text, C channels, E channels of the
text, H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..adapters.lora import merged_memory, merged_weight
from .small_norms import GroupNorm, LayerNorm

_Biased = tuple[Tensor, Tensor]
Place = tuple[dict[str, Any], str]
"""A parent's modules by name, and a name."""


class _BlockTensors(NamedTuple):
    """All weights of a block: merged ones, which collect their gradients, and frozen biases."""

    heads: int
    norms: tuple[LayerNorm, LayerNorm, LayerNorm]
    qkv: Tensor  # (3 C, C)
    out1: _Biased
    q2: Tensor  # (C, C)
    kv2: Tensor  # (2 C, E)
    out2: _Biased
    ff1: _Biased
    ff2: _Biased


class TransformerTensors(NamedTuple):
    """All weights of a spatial transformer."""

    norm: GroupNorm
    proj_in: _Biased
    blocks: tuple[_BlockTensors, ...]
    proj_out: _Biased

    @property
    def anchor(self) -> Tensor:
        """A weight that is trained: autograd steps over what has no input to differentiate."""
        return self.proj_in[0]


def layer_places(transformer: Any) -> list[Place]:
    """Where a spatial transformer's layers are: asking modules for each takes longer than it may.

    A network that is attached puts its own layers into the same places.
    """
    places = [(transformer, "proj_in"), (transformer, "proj_out")]
    for block in transformer.transformer_blocks:
        for attention in (block.attn1, block.attn2):
            places += [(attention, name) for name in ("to_q", "to_k", "to_v")]
            places.append((attention.to_out, "0"))
        places += [(block.ff.net[0], "proj"), (block.ff.net, "2")]
    return [(parent._modules, name) for parent, name in places]  # noqa: SLF001  (its only name)


def transformer_tensors(transformer: Any) -> TransformerTensors | None:
    """The weights of a spatial transformer whose layers are all merged and trained, else None.

    They are found once, and kept beside the merged weights for as long as these last.
    """
    memory = merged_memory([modules[name] for modules, name in transformer.layer_places])
    if memory is None:
        return None
    if transformer not in memory:
        memory[transformer] = _found(transformer)
    return memory[transformer]


def _found(transformer: Any) -> TransformerTensors | None:
    norm = transformer.norm
    proj_in, proj_out = _biased(transformer.proj_in), _biased(transformer.proj_out)
    blocks = [_block_tensors(block) for block in transformer.transformer_blocks]
    known = [block for block in blocks if block is not None]
    if proj_in is None or proj_out is None or not norm.affine or len(known) < len(blocks):
        return None
    return TransformerTensors(GroupNorm.of(norm), proj_in, tuple(known), proj_out)


def _block_tensors(block: Any) -> _BlockTensors | None:
    first, second, net = block.attn1, block.attn2, block.ff.net
    norms = (block.norm1, block.norm2, block.norm3)
    qkv = merged_weight((first.to_q, first.to_k, first.to_v))
    q2, kv2 = merged_weight((second.to_q,)), merged_weight((second.to_k, second.to_v))
    out1, out2 = _biased(first.to_out[0]), _biased(second.to_out[0])
    ff1, ff2 = _biased(net[0].proj), _biased(net[2])
    if qkv is None or q2 is None or kv2 is None or any(norm.bias is None for norm in norms):
        return None
    if out1 is None or out2 is None or ff1 is None or ff2 is None:
        return None
    first_norm, second_norm, third_norm = map(LayerNorm.of, norms)
    return _BlockTensors(
        *(first.heads, (first_norm, second_norm, third_norm)),
        *(qkv, out1, q2, kv2, out2, ff1, ff2),
    )


def _biased(layer: Any) -> _Biased | None:
    weight = merged_weight((layer,), biased=True)
    return None if weight is None or layer.bias is None else (weight, layer.bias.float())


def small_transformer(x: Tensor, context: Tensor, weights: TransformerTensors) -> Tensor:
    """Return the transformer's output (B, C, h, w) in x's dtype.

    x: (B, C, h, w); context: (B, M, E).
    """
    return _Transformer.apply(x, context.float(), weights.anchor, weights)


class _Transformer(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, context: Tensor, _anchor: Tensor, weights: TransformerTensors
    ) -> Tensor:
        x0 = x.float()
        n0, mean, rstd = weights.norm.apply(x0)
        rows = _rows(n0)
        hidden = F.linear(rows, *weights.proj_in)
        saved = [context, x0, mean, rstd, rows]
        for block in weights.blocks:
            hidden, kept = _forward(hidden, context, block)
            saved += kept
        ctx.weights, ctx.dtype = weights, x.dtype
        ctx.save_for_backward(*saved, hidden)
        return _maps(F.linear(hidden, *weights.proj_out), x.shape).add_(x0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator's typing)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        w: TransformerTensors = ctx.weights
        context, x0, mean, rstd, rows, *saved, hidden = ctx.saved_tensors
        wants_x, wants_context, *_ = ctx.needs_input_grad
        d_out = grad_outputs[0].float()
        grad, d_context = _back(_rows(d_out), hidden, w.proj_out[0]), None
        for block in reversed(w.blocks):
            kept, saved = saved[-_SAVED:], saved[:-_SAVED]
            grad, more = _backward(grad, context, block, kept, wants_context)
            d_context = more if d_context is None or more is None else d_context.add_(more)
        d_n0 = _back(grad, rows, w.proj_in[0], wants_x)
        if d_n0 is None:
            return None, d_context, None, None
        d_x = w.norm.back(_maps(d_n0, x0.shape), x0, mean, rstd).add_(d_out)
        return d_x.to(ctx.dtype), d_context, None, None


_SAVED = 25  # tensors that a block's forward pass keeps for its backward pass


def _forward(x0: Tensor, context: Tensor, w: _BlockTensors) -> tuple[Tensor, list[Tensor]]:
    """A block's output (B, N, C), and what its backward pass needs."""
    heads = w.heads
    n1, mean1, rstd1 = w.norms[0].apply(x0)
    q1, k1, v1 = _split(F.linear(n1, w.qkv), heads, 3)
    p1, o1 = _attend(q1, k1, v1, len(x0))
    x1 = F.linear(o1, *w.out1).add_(x0)
    n2, mean2, rstd2 = w.norms[1].apply(x1)
    (q2,) = _split(F.linear(n2, w.q2), heads, 1)
    k2, v2 = _split(F.linear(context, w.kv2), heads, 2)
    p2, o2 = _attend(q2, k2, v2, len(x0))
    x2 = F.linear(o2, *w.out2).add_(x1)
    n3, mean3, rstd3 = w.norms[2].apply(x2)
    hidden = F.linear(n3, *w.ff1)
    values, gate = hidden.chunk(2, -1)
    opened = F.gelu(gate)
    mixed = values * opened
    kept = [x0, n1, mean1, rstd1, q1, k1, v1, p1, o1]
    kept += [x1, n2, mean2, rstd2, q2, k2, v2, p2, o2]
    kept += [x2, n3, mean3, rstd3, hidden, opened, mixed]
    return F.linear(mixed, *w.ff2).add_(x2), kept


def _backward(
    d_out: Tensor, context: Tensor, w: _BlockTensors, kept: Sequence[Tensor], wants_context: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of a block's input and, where it is wanted, of the text's."""
    x0, n1, mean1, rstd1, q1, k1, v1, p1, o1 = kept[:9]
    x1, n2, mean2, rstd2, q2, k2, v2, p2, o2 = kept[9:18]
    x2, n3, mean3, rstd3, hidden, opened, mixed = kept[18:]
    d_mixed = _back(d_out, mixed, w.ff2[0])
    (values, gate), d_hidden = hidden.chunk(2, -1), torch.empty_like(hidden)
    d_values, d_gate = d_hidden.chunk(2, -1)
    torch.mul(d_mixed, opened, out=d_values)
    torch.ops.aten.gelu_backward.grad_input(d_mixed.mul_(values), gate, grad_input=d_gate)
    d_n3 = _back(d_hidden, n3, w.ff1[0])
    d_x2 = w.norms[2].back(d_n3, x2, mean3, rstd3).add_(d_out)

    d_q2, *d_kv2 = _attend_back(_back(d_x2, o2, w.out2[0]), q2, k2, v2, p2)
    d_context = _back(_joined(d_kv2, len(x0)), context, w.kv2, wants_context)
    d_n2 = _back(_joined([d_q2], len(x0)), n2, w.q2)
    d_x1 = w.norms[1].back(d_n2, x1, mean2, rstd2).add_(d_x2)

    d_qkv1 = _attend_back(_back(d_x1, o1, w.out1[0]), q1, k1, v1, p1)
    d_n1 = _back(_joined(d_qkv1, len(x0)), n1, w.qkv)
    return w.norms[0].back(d_n1, x0, mean1, rstd1).add_(d_x1), d_context


def _back(grad: Tensor, x: Tensor, weight: Any, wanted: bool = True) -> Any:
    """Collect the gradient of a merged weight, and return that of x where it is wanted."""
    flat = grad.reshape(-1, grad.shape[-1])
    weight.grad.addmm_(flat.t(), x.reshape(-1, x.shape[-1]))
    return (flat @ weight).view(x.shape) if wanted else None


def _rows(maps: Tensor) -> Tensor:
    """(B, C, h, w) to (B, N, C); no copy where maps are laid out by channels."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _maps(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, N, C) to (B, C, h, w) of this shape, a view."""
    return rows.unflatten(1, tuple(shape[2:])).permute(0, 3, 1, 2)


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
