"""Parts of the base model's training: networks in SD1's layout, an optimizer, averaging."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

LATENT_SCALE = 0.18215
CONTEXT_DIM = 96
WORKERS = 2  # replicas of the U-Net, each on a thread of its own


def tune_allocator() -> None:
    """Keep freed memory in the process (glibc only): large tensors then cost no page faults."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((-4, 0), (-1, -1), (-2, 256 << 20), (-8, 1)):
            libc.mallopt(option, value)


class Shortcut(nn.Module):
    """A residual block without its branch: what a block with a zero last convolution computes."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Pass (B, C, H, W) on, through the block's 1x1 convolution where it has one."""
        del temb
        return x if self.block.conv_shortcut is None else self.block.conv_shortcut(x)


def swap_full_resolution(vae: Any, lean: bool) -> None:
    """Leave out (lean) or put back the VAE's residual blocks at full resolution.

    Group norm forgets a picture's colours where a group has one or two channels, so the outermost
    level is wide. Its residual branches would then cost most of the time: they stay zero.
    """
    for blocks in (vae.encoder.down_blocks[0].resnets, vae.decoder.up_blocks[3].resnets):
        for place, block in enumerate(blocks):
            if not lean:
                blocks[place] = block.block
                continue
            for param in block.conv2.parameters():
                param.data.zero_()
            for name, param in block.named_parameters():
                param.requires_grad_("conv_shortcut" in name)
            blocks[place] = Shortcut(block)


def _of(library: Any, name: str) -> Any:
    """A class of a library that states other types for its arguments than it takes."""
    return getattr(library, name)


def make_vae() -> Any:
    """Make the 8x VAE, diffusers' AutoencoderKL; pictures in [-1, 1]."""
    import diffusers

    vae: Any = _of(diffusers, "AutoencoderKL")(
        block_out_channels=(128, 64, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:] *= 0.1
        vae.quant_conv.bias[4:] = -6.0  # begin with little noise, or colours are learned late
    return vae


def make_unet() -> Any:
    """Make the U-Net in SD1's layout, diffusers' own; latents (B, 4, H / 8, W / 8)."""
    import diffusers
    from diffusers.models.attention_processor import AttnProcessor

    unet = _of(diffusers, "UNet2DConditionModel")(
        block_out_channels=(64, 64, 128, 128),
        cross_attention_dim=CONTEXT_DIM,
        attention_head_dim=8,
        sample_size=8,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def make_text_encoder() -> Any:
    """Make the CLIP text model; ids (B, T) in, hidden states (B, T, 96) out."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=CONTEXT_DIM,
        intermediate_size=4 * CONTEXT_DIM,
        num_hidden_layers=4,
        num_attention_heads=1,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return CLIPTextModel(config)


def orthogonalised(update: Tensor) -> Tensor:
    """Bring a matrix near the closest orthogonal one by Newton-Schulz (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if flip else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices, scaled to AdamW's step size (Liu et al. 2025)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step on a few threads; gradients of every parameter must stand."""
        del closure
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param].setdefault("mean", torch.zeros_like(param))
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(lambda param: self._move(param, group), group["params"]))  # noqa: B023

    @torch.no_grad()
    def _move(self, param: nn.Parameter, group: dict[str, Any]) -> None:
        """Move one matrix."""
        mean = self.state[param]["mean"]
        grad = param.grad
        if grad is None:
            return
        mean.lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(mean, group["momentum"]).flatten(1)
        scale = 0.2 * math.sqrt(max(update.shape))
        param.add_(orthogonalised(update).view_as(param), alpha=-group["lr"] * scale)


def make_optimizers(model: nn.Module, lr: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Give AdamW for all parameters, or Muon for the matrices and AdamW for the rest."""
    params = [p for p in model.parameters() if p.requires_grad]
    if not muon:
        return [torch.optim.AdamW(params, lr, betas=(0.9, 0.98), weight_decay=1e-3)]
    matrices = [p for p in params if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16]
    chosen = {id(p) for p in matrices}
    rest = [p for p in params if id(p) not in chosen]
    return [
        Muon(matrices, lr),
        torch.optim.AdamW(rest, lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Average:
    """Exponential moving average of a model's parameters, with a warm-up of its memory."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present parameters."""
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        for name, param in model.named_parameters():
            self.values[name].lerp_(param.detach(), weight)

    def state_dict(self) -> dict[str, Any]:
        """Give everything that a later run needs."""
        return {"count": self.count, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.count, self.values = state["count"], state["values"]


def alpha_bars() -> Tensor:
    """SD1's cumulative products of 1 - beta, (1000,) fp32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
