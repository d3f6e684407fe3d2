"""The U-Net's blocks with nothing but the arithmetic that Stable Diffusion needs.

diffusers' own modules serve dozens of models and spend, on a small U-Net, as much time on
choosing as on computing. These here hold the same layers under the same names, so that state
dicts, key maps and adapters see no difference, and compute the same numbers.

Source: diffusers `Transformer2DModel`, `BasicTransformerBlock`, `AttnProcessor`, `ResnetBlock2D`;
Rombach et al. 2022, section 3.3.

Shapes: B batch, C channels, N positions (height x width), M tokens of the text, H heads, D = C / H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..adapters.lora import project
from .small_residual import Packed, small_residual
from .small_transformer import layer_places, small_transformer, transformer_tensors

_UNKNOWN = ("attention_mask", "encoder_attention_mask", "class_labels", "cross_attention_kwargs")

# q, k, v, each (B, positions, C), and the number of heads -> (B, positions of q, C)
AttentionKernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention as two products and a softmax: quicker than fused for small heads on a CPU."""
    batch, count, channels = q.shape
    size = channels // heads
    q, k, v = (_split(x, heads).reshape(batch * heads, -1, size) for x in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=size**-0.5)
    mixed = torch.bmm(scores.softmax(-1), v)
    return mixed.view(batch, heads, count, size).transpose(1, 2).reshape(batch, count, channels)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention in torch's fused kernel: never holds the (N, N) scores where one is at hand."""
    q, k, v = (_split(x, heads) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2)


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, H, N, D), a view."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Projections of one attention; context None is self-attention."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads: int = source.heads
        self.channels: int = source.to_q.weight.shape[0]
        self.to_q, self.to_k, self.to_v = source.to_q, source.to_k, source.to_v
        self.to_out = nn.ModuleList([source.to_out[0]])

    def forward(self, x: Tensor, context: Tensor | None, kernel: AttentionKernel) -> Tensor:
        """Mix x (B, N, C) by what it finds in itself or in context (B, M, C of the text)."""
        if context is None:
            q, k, v = project(x, (self.to_q, self.to_k, self.to_v))
        else:
            q = self.to_q(x)
            k, v = project(context, (self.to_k, self.to_v))
        return self.to_out[0](kernel(q, k, v, self.heads))


class _Gate(nn.Module):
    """GEGLU (Shazeer 2020): half of the projection opens and shuts the other half."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.proj(x).chunk(2, -1)
        return values * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers with a gate between them."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.net = nn.ModuleList([_Gate(source.net[0].proj), nn.Identity(), source.net[2]])

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a norm and beside a bypass."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.norm1, self.attn1 = source.norm1, Attention(source.attn1)
        self.norm2, self.attn2 = source.norm2, Attention(source.attn2)
        self.norm3, self.ff = source.norm3, FeedForward(source.ff)

    def forward(self, x: Tensor, context: Tensor, kernel: AttentionKernel) -> Tensor:
        """(B, N, C) to (B, N, C); context: (B, M, C of the text)."""
        x = x + self.attn1(self.norm1(x), None, kernel)
        x = x + self.attn2(self.norm2(x), context, kernel)
        return x + self.ff(self.norm3(x))


class ResidualBlock(nn.Module):
    """Two convolutions with the timestep between them, in place of diffusers' own."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.norm1, self.conv1 = source.norm1, source.conv1
        self.time_emb_proj = source.time_emb_proj
        self.norm2, self.conv2 = source.norm2, source.conv2
        self.conv_shortcut = source.conv_shortcut
        self.packed: Packed | None = None  # set for a small U-Net, whose training it quickens

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """(B, C in, h, w) to (B, C out, h, w); temb: (B, 4 C of the first level)."""
        if self.packed is not None and torch.is_grad_enabled():
            tensors = self.packed.of(self, x)
            if tensors is not None:
                return small_residual(x, self.time_emb_proj(F.silu(temb)), tensors)
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, in place of diffusers' own.

    proj_in and proj_out are 1x1 convolutions in SD1 and linear layers in SD2 and SDXL.
    """

    def __init__(self, source: Any, kernel: AttentionKernel = fused_attention) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # diffusers sets it on every module that has it
        self.kernel = kernel
        self.norm, self.proj_in, self.proj_out = source.norm, source.proj_in, source.proj_out
        self.transformer_blocks = nn.ModuleList(map(TransformerBlock, source.transformer_blocks))
        self.is_linear = isinstance(source.proj_in, nn.Linear)
        self.layer_places = layer_places(self)

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, **others: Any) -> tuple[Tensor]:
        """Transform (B, C, h, w) by encoder_hidden_states (B, M, C of the text).

        others: what diffusers hands on beside them, none of which is known here but as None.
        """
        given = [name for name in _UNKNOWN if others.get(name) is not None]
        if given:
            raise ValueError(f"these transformers do not know {', '.join(given)}")
        if self.kernel is plain_attention and torch.is_grad_enabled():
            tensors = transformer_tensors(self)
            if tensors is not None:
                return (self._run(small_transformer, x, encoder_hidden_states, tensors),)
        shape, bypass = x.shape, x
        x = self.norm(x)
        if self.is_linear:
            x = self.proj_in(x.flatten(2).transpose(1, 2))
        else:
            x = self.proj_in(x).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            x = self._run(block, x, encoder_hidden_states, self.kernel)
        if self.is_linear:
            x = self.proj_out(x).transpose(1, 2).reshape(shape)
        else:
            x = self.proj_out(x.transpose(1, 2).reshape(shape))
        return (x + bypass,)

    def _run(self, block: Callable[..., Tensor], *given: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)


def use_lean_modules(unet: nn.Module) -> None:
    """Replace diffusers' transformers and residual blocks in a U-Net by ours, over its layers."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    kinds = {Transformer2DModel: SpatialTransformer, ResnetBlock2D: ResidualBlock}
    for name, module in list(unet.named_modules()):
        lean = kinds.get(type(module))
        if lean is not None:
            parent, _, own = name.rpartition(".")
            setattr(unet.get_submodule(parent), own, lean(module))


def head_size(unet: nn.Module) -> int:
    """Channels of the largest attention head in a U-Net with our transformers."""
    sizes = (
        module.channels // module.heads
        for module in unet.modules()
        if isinstance(module, Attention)
    )
    return max(sizes)


def set_attention(unet: nn.Module, kernel: AttentionKernel) -> None:
    """Choose how every attention of a U-Net with our transformers is computed."""
    for module in unet.modules():
        if isinstance(module, SpatialTransformer):
            module.kernel = kernel
