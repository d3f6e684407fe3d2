"""Builds the three networks of a checkpoint on the meta device and gives them its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import keymaps
from .checkpoint import Checkpoint
from .layouts import UNET_HEADS, Layout, part_names, text_heads
from .tokenizer import END, START, TOKENS, VOCABULARY
from .unet_blocks import (
    fused_attention,
    head_size,
    plain_attention,
    set_attention,
    use_lean_modules,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")  # without and with attention
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
_SMALL_HEAD = 32  # channels
_NAMED = 5  # tensors that an error names before it only counts

# tensors that files carry along and that no network has
_BENIGN = re.compile(
    r"model_ema\.|betas$|(sqrt_|log_)?(one_minus_)?(recip_|recipm1_)?alphas_cumprod|alphas_cumprod_prev$|"
    r"sqrt_|log_one_minus|posterior_|logvar$|lvlb_weights$|scale_factor$|denoiser\.|"
    r"v_pred$|ztsnr$|embedding_manager\.|first_stage_model\.(loss\.|model_ema\.)|safety_checker\.|"
    r"cond_stage_model\.(logit_scale|text_projection|transformer\.(visual_|text_)projection\.|"
    r"transformer\.vision_model\.|transformer\.logit_scale$|"
    r"transformer\.(text_model\.)?embeddings\.position_ids$)"
)


class Placement(NamedTuple):
    """Where a network's weights go: device and floating-point type."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One network of the checkpoint, still on the meta device.

    names: for each of the network's tensors (its own spelling) the name in the file. as_linear:
    whether the file may hold a 1x1 convolution where this tensor is a linear's weight.
    """

    title: str
    prefix: str
    network: nn.Module
    names: Mapping[str, str]
    as_linear: Callable[[str], bool] = field(default=lambda _: False)


def make_unet(layout: Layout) -> UNet2DConditionModel:
    """Make the U-Net on the meta device.

    In: latents (B, 4, h, w), timestep (B,), context (B, 77, C).
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
        "attention_head_dim": UNET_HEADS,  # diffusers' word for the number of heads
    }
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


def make_text_encoder(layout: Layout) -> CLIPTextModel:
    """Make the CLIP text model on the meta device. Ids (B, 77) to hidden states (B, 77, C)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=layout.text_width,
        intermediate_size=layout.text_inner,
        num_hidden_layers=layout.text.layers,
        num_attention_heads=text_heads(layout.text_width),
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    with torch.device("meta"):
        return CLIPTextModel(config)


def map_parts(checkpoint: Checkpoint, layout: Layout, networks: Iterable[nn.Module]) -> list[Part]:
    """Match U-Net, VAE and text encoder, in this order, with the file's tensors.

    Raises CheckpointError when a tensor is missing, of another shape, or left over.
    """
    unet, vae, text_encoder = networks
    # a spelling with or without `text_model.` on either side
    own_text_names = {keymaps.canonical_text_name(name): name for name in text_encoder.state_dict()}
    text_map = {
        ldm: own_text_names.get(name, name) for ldm, name in keymaps.text_map(layout.text).items()
    }
    plans = (
        ("U-Net", keymaps.UNET_PREFIX, unet, keymaps.unet_map(layout.unet)),
        ("VAE", keymaps.VAE_PREFIX, vae, keymaps.vae_map(layout.vae)),
        ("text encoder", keymaps.TEXT_PREFIX, text_encoder, text_map),
    )
    parts, problems, used = [], [], set()
    for title, prefix, network, names in plans:
        found = part_names(checkpoint.shapes, prefix)
        missing = [prefix + ldm for ldm in names if ldm not in found]
        problems += _listed(f"missing from its {title}", missing)
        in_file = {own: found[ldm] for ldm, own in names.items() if ldm in found}
        used.update(in_file.values())
        as_linear = keymaps.is_vae_projection if network is vae else _never
        part = Part(title=title, prefix=prefix, network=network, names=in_file, as_linear=as_linear)
        problems += _listed(f"of a wrong shape in its {title}", _wrong_shapes(checkpoint, part))
        parts.append(part)
    left = [n for n in checkpoint.shapes if n not in used and not _BENIGN.match(n)]
    problems += _listed("unknown", left)
    if problems:
        raise CheckpointError(f"{checkpoint.path} does not fit: {'; '.join(problems)}")
    return parts


def fill(part: Part, checkpoint: Checkpoint, placement: Placement) -> None:
    """Give the network its weights, straight to device and dtype, and freeze it in eval mode.

    Raises CheckpointError for weights that are not finite numbers, as stored or in this dtype.
    """
    state = {}
    expected = part.network.state_dict()
    for own, name in part.names.items():
        weight = checkpoint.tensor(name).to(placement.device, placement.dtype)
        weight = weight.view(expected[own].shape)
        if not _is_finite(weight.detach()):
            raise CheckpointError(
                f"{checkpoint.path}: weight {name!r} of its {part.title} is not finite as "
                f"{placement.dtype}; the model is damaged, or needs memory.precision fp32 or bf16"
            )
        state[own] = weight
    state.update(_computed(expected, placement.device))
    part.network.load_state_dict(state, strict=True, assign=True)
    _recreate_buffers(part.network, placement.device)
    part.network.requires_grad_(False).eval()


def _is_finite(weight: Tensor) -> bool:
    if weight.dtype == torch.float16 and weight.device.type == "cpu":
        return bool(torch.isfinite(weight).all())  # torch 2.1 lacks aminmax for these
    low, high = torch.aminmax(weight)  # five times as quick as isfinite, and keeps NaN
    return bool(torch.isfinite(low) and torch.isfinite(high))


def use_quick_attention(unet: nn.Module, device: torch.device) -> None:
    """Choose how our transformers attend: fused, or plain products for small heads on the CPU.

    Measured: heads of 8 and 16 channels 15 to 20 % quicker with plain products, of 40 and more
    quicker fused.
    """
    small = device.type == "cpu" and head_size(unet) < _SMALL_HEAD
    set_attention(unet, plain_attention if small else fused_attention)


def _never(_: str) -> bool:
    return False


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = ", ..." if len(names) > _NAMED else ""
    tensors = "tensor" if len(names) == 1 else "tensors"
    return [f"{len(names)} {tensors} {what} ({', '.join(names[:_NAMED])}{more})"]


def _wrong_shapes(checkpoint: Checkpoint, part: Part) -> list[str]:
    wrong = []
    for own, tensor in part.network.state_dict().items():
        name = part.names.get(own)
        if name is None:
            continue
        shape, wanted = checkpoint.shapes[name], tuple(tensor.shape)
        if shape != wanted and not (part.as_linear(own) and shape == (*wanted, 1, 1)):
            wrong.append(f"{name} {list(shape)} instead of {list(wanted)}")
    return wrong


def _computed(expected: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors that no file needs to hold: in older transformers the positions, counted from 0."""
    return {
        name: torch.arange(tensor.shape[-1], device=device).expand(tensor.shape)
        for name, tensor in expected.items()
        if name.endswith("position_ids")
    }


def _recreate_buffers(network: nn.Module, device: torch.device) -> None:
    """Compute what state dicts leave out and the meta device therefore left without numbers."""
    for path, buffer in list(network.named_buffers()):
        if buffer.device.type != "meta":
            continue
        owner, _, name = path.rpartition(".")
        if name != "position_ids":
            raise RuntimeError(f"buffer {path!r} can't be recomputed: unknown version of a library")
        positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
        network.get_submodule(owner).register_buffer(name, positions, persistent=False)
