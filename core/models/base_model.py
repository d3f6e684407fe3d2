"""The base model: U-Net, VAE, text encoder and tokenizer of one checkpoint, frozen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from . import build, families
from .checkpoint import Checkpoint, open_checkpoint
from .families import Family, Prediction
from .layouts import read_layout
from .text import encode_ids
from .tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

EMBEDDED = Path(__file__).resolve().parents[1] / "demo" / "assets" / "base.safetensors"
LATENT_STRIDE = 8  # pixels
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """The three networks of a base model; the VAE may be of another dtype than the others."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What is known of a base model beside its weights."""

    path: Path
    family: Family
    prediction: Prediction
    zero_terminal_snr: bool
    resolution: int


class BaseModel:
    """A frozen base model on one device.

    resolution: pixels of a picture's side that it was made for.
    """

    def __init__(self, networks: Networks, facts: BaseFacts) -> None:
        self.unet = networks.unet
        self.vae = networks.vae
        self.text_encoder = networks.text_encoder
        self.tokenizer = ClipTokenizer()
        self.path = facts.path
        self.name = facts.path.stem
        self.family = facts.family
        self.prediction: Prediction = facts.prediction
        self.zero_terminal_snr = facts.zero_terminal_snr
        self.resolution = facts.resolution
        self.latent_scale = facts.family.latent_scale
        self.latent_stride = LATENT_STRIDE

    @property
    def _vae(self) -> Any:
        """The VAE without diffusers' type hints, which say tuple where it returns more."""
        return self.vae

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that can be trained, by the names that paths of adapters begin with."""
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's and the text encoder's compute dtype."""
        return self.unet.conv_in.weight.dtype

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file, 64 hex digits; read once, about a second per GB.

        Raises CheckpointError when the file is gone.
        """
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise CheckpointError(
                f"{self.path} can't be read any more ({error.strerror}): put it back, a training "
                "is bound to the hash of its base model"
            ) from error
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """What a resume state is bound to: equal for equal weights."""
        return self.sha256

    def encode_text(self, captions: list[str], clip_skip: int = 1) -> Tensor:
        """Context (B, 77, C) of captions, in the compute dtype; clip_skip 1 is the last layer.

        Gradients flow.
        """
        ids = self.tokenizer.encode(captions).to(self.text_encoder.device)
        return encode_ids(self.text_encoder, ids, clip_skip)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the scaled latents of pictures, each (B, 4, H / 8, W / 8), fp32.

        pixels: (B, 3, H, W) in [-1, 1], sides multiples of 8.
        """
        if any(side % LATENT_STRIDE for side in pixels.shape[-2:]):
            raise ValueError(f"sides must be multiples of {LATENT_STRIDE}: {tuple(pixels.shape)}")
        moved = pixels.to(self.vae.device, self.vae.dtype)
        posterior = self._vae.encode(moved).latent_dist
        scale = self.latent_scale
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 8 h, 8 w) in [0, 1], fp32, of scaled latents (B, 4, h, w)."""
        moved = (latents / self.latent_scale).to(self.vae.device, self.vae.dtype)
        pixels = self._vae.decode(moved).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)


def load_base_model(
    checkpoint: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: Literal["auto", "epsilon", "v"] = "auto",
    zero_terminal_snr: Literal["auto", "yes", "no"] = "auto",
    vae_dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """Load a checkpoint (a file's path, or "embedded" for the one that comes with the package).

    dtype: of U-Net and text encoder. "auto": as the file states it, otherwise as its family does.
    Raises CheckpointError for a file that can't be used, ConfigError for settings that contradict
    each other.
    """
    path = EMBEDDED if str(checkpoint) == "embedded" else Path(checkpoint)
    opened = open_checkpoint(path)
    facts = resolve_facts(opened, prediction, zero_terminal_snr)
    device = torch.device(device)
    layout = read_layout(opened)
    networks = Networks(
        unet=build.make_unet(layout),
        vae=build.make_vae(layout),
        text_encoder=build.make_text_encoder(layout),
    )
    modules = (networks.unet, networks.vae, networks.text_encoder)
    parts = build.map_parts(opened, layout, modules)
    for part in parts:
        own_dtype = vae_dtype if part.network is networks.vae else dtype
        build.fill(part, opened, build.Placement(device, own_dtype))
    build.use_quick_attention(networks.unet, device)
    return BaseModel(networks, facts)


def resolve_facts(
    checkpoint: Checkpoint,
    prediction: Literal["auto", "epsilon", "v"],
    zero_terminal_snr: Literal["auto", "yes", "no"],
) -> BaseFacts:
    """What the file and the settings together say; "auto" is what the file states.

    Raises CheckpointError for a family that isn't trained, ConfigError for a contradiction.
    """
    family = families.require_trained(checkpoint)
    stated = families.stated_prediction(checkpoint, family)
    chosen = stated if prediction == "auto" else prediction
    flags = {"auto": families.stated_zero_terminal_snr(checkpoint), "yes": True, "no": False}
    zero = flags[zero_terminal_snr]
    if zero and chosen == "epsilon":
        raise ConfigError(
            f"base.zero_terminal_snr is {zero_terminal_snr!r}, which gives {checkpoint.path} zero "
            "terminal SNR, and its prediction is epsilon: in pure noise that teaches nothing. "
            "Set base.prediction to v, or base.zero_terminal_snr to no"
        )
    return BaseFacts(
        path=checkpoint.path,
        family=family,
        prediction=chosen,
        zero_terminal_snr=zero,
        resolution=families.stated_resolution(checkpoint, family),
    )
