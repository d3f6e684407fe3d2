"""Makes the networks of a checkpoint on the meta device; `filling` gives them its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .keymaps import TextLayout
from .layouts import SIZE_CHANNELS, Layout, text_heads
from .small_residual import Packed
from .tokenizer import END, START, TOKENS, VOCABULARY
from .unet_blocks import (
    ResidualBlock,
    fused_attention,
    head_size,
    plain_attention,
    set_attention,
    use_lean_modules,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")  # without and with attention
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
_SMALL_HEAD = 32  # channels


def make_unet(layout: Layout) -> UNet2DConditionModel:
    """Make the U-Net on the meta device.

    In: latents (B, 4, h, w), timestep (B,), context (B, 77, C); SDXL's takes pooled vectors (B, P)
    and time ids (B, 6) beside them.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    depths = layout.unet.depths
    config: dict[str, Any] = {
        "in_channels": layout.latents,
        "out_channels": layout.latents,
        "block_out_channels": layout.unet.widths,
        "layers_per_block": layout.unet.resnets,
        "transformer_layers_per_block": tuple(max(1, depth) for depth in depths),
        "down_block_types": tuple(_DOWN[depth > 0] for depth in depths),
        "up_block_types": tuple(_UP[depth > 0] for depth in reversed(depths)),
        "cross_attention_dim": layout.context,
        "attention_head_dim": layout.unet.heads,  # diffusers' word for the number of heads
        "use_linear_projection": layout.unet.linear,
    }
    if layout.unet.label:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = SIZE_CHANNELS
        config["projection_class_embeddings_input_dim"] = layout.unet.label
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    use_lean_modules(unet)
    return unet


def make_vae(layout: Layout) -> AutoencoderKL:
    """Make the autoencoder on the meta device.

    Pictures (B, 3, H, W) in [-1, 1] to latents (B, 4, H / 8, W / 8).
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(layout.vae.widths)
    config: dict[str, Any] = {
        "block_out_channels": layout.vae.widths,
        "layers_per_block": layout.vae.resnets,
        "latent_channels": layout.latents,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    with torch.device("meta"):
        return AutoencoderKL(**config)


def make_text_encoder(text: TextLayout) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Make a CLIP text model on the meta device. Ids (B, 77) to hidden states (B, 77, C)."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=text.width,
        intermediate_size=text.inner,
        projection_dim=text.projection or text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text_heads(text.width),
        max_position_embeddings=TOKENS,
        hidden_act=text.activation,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    with torch.device("meta"):
        return CLIPTextModelWithProjection(config) if text.projection else CLIPTextModel(config)


def make_networks(layout: Layout) -> dict[str, nn.Module]:
    """Make every part of a base model on the meta device, by its name."""
    texts = {part: make_text_encoder(text) for part, text in layout.texts.items()}
    return {"unet": make_unet(layout), "vae": make_vae(layout), **texts}


def use_quick_attention(unet: nn.Module, device: torch.device) -> None:
    """Choose how our transformers attend: fused, or plain products for small heads on the CPU.

    Measured: heads of 8 and 16 channels 15 to 20 % quicker with plain products, of 40 and more
    quicker fused.
    """
    set_attention(unet, plain_attention if _is_small(unet, device) else fused_attention)


def use_quick_layout(unet: nn.Module, device: torch.device, own_weights: bool) -> None:
    """Lay a small U-Net's feature maps out by channels on the CPU, which its kernels compute in.

    Every map follows the first one's layout, and the transformers' view of it needs no copy then.
    own_weights: nobody else holds them, so the convolutions' are made anew in that layout, which
    otherwise each use does. The numbers are the same; where a map is a single pixel, but for the
    last bit.
    """
    if not _is_small(unet, device):
        return
    unet.get_submodule("conv_in").register_forward_pre_hook(_by_channels)
    for module in unet.modules():
        if isinstance(module, ResidualBlock):
            module.packed = Packed()
    for module in unet.modules() if own_weights else ():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)


def _by_channels(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in given)


def _is_small(unet: nn.Module, device: torch.device) -> bool:
    return device.type == "cpu" and head_size(unet) < _SMALL_HEAD
