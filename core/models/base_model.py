"""The base model: U-Net, VAE, text encoder and tokenizer of one checkpoint, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion.seeds import ON_CPU, Seeding
from ..errors import CheckpointError, ConfigError
from . import build, families
from .artist import Artist
from .checkpoint import Checkpoint
from .families import Family, Prediction
from .filling import Part, Placement, fill, map_parts
from .layouts import Layout, read_layout
from .parts import parts_of
from .sources import open_source
from .text import TEXT_USES, Condition, TextOptions, encode_captions
from .tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

EMBEDDED = Path(__file__).resolve().parents[1] / "demo" / "assets" / "base.safetensors"
LATENT_STRIDE = 8  # pixels
VAE_DTYPE = torch.float32  # SDXL's overflows in fp16
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What is known of a base model beside its weights.

    path: its file or folder. files: all that it is read from. vae: the VAE that was given apart.
    """

    path: Path
    family: Family
    prediction: Prediction
    zero_terminal_snr: bool
    resolution: int
    files: tuple[Path, ...] = ()
    vae: Checkpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """What there is to know of a base model whose weights a host has lent.

    dtype: that U-Net and text encoders compute in, whatever their weights are stored in. sha256: of
    the checkpoint's file, None where the host does not have it at hand. identity: of the weights.
    own_bytes: that were taken beside the host's. changes: what the host has changed since, in
    words; quick enough to be asked every few seconds. rested: to be called where the host was let
    work meanwhile and is done; what it has changed but not only moved, in words.
    """

    outline: Outline
    dtype: torch.dtype
    sha256: str | None
    identity: str
    own_bytes: int
    changes: Callable[[], tuple[str, ...]]
    rested: Callable[[], tuple[str, ...]]


class BaseModel:
    """A frozen base model on one device.

    resolution: pixels of a picture's side that it was made for. loan: for one whose weights are a
    host's. artist: draws with the host's own sampler, where the host offers that. seeding: how the
    seeds of pictures become noise.
    """

    artist: Artist | None = None
    seeding: Seeding = ON_CPU

    def __init__(
        self, networks: Mapping[str, nn.Module], facts: BaseFacts, loan: Loan | None = None
    ) -> None:
        self.loan = loan
        self.unet: UNet2DConditionModel = networks["unet"]  # pyright: ignore[reportAttributeAccessIssue]
        self.vae: AutoencoderKL = networks["vae"]  # pyright: ignore[reportAttributeAccessIssue]
        self.text_encoders = {
            part: network for part, network in networks.items() if part.startswith("text_encoder")
        }
        self.tokenizer = ClipTokenizer()
        self.path = facts.path
        self.name = facts.path.stem
        self.vae_path = facts.vae.path if facts.vae else None
        self._files = facts.files or (facts.path,)
        self._vae_files = facts.vae.files if facts.vae else ()
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
        return {"unet": self.unet, **self.text_encoders}

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's and the text encoder's compute dtype."""
        return self.unet.conv_in.weight.dtype if self.loan is None else self.loan.dtype

    @property
    def vae_dtype(self) -> torch.dtype:
        """The VAE's compute dtype."""
        return self.vae.dtype if self.loan is None else VAE_DTYPE

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the whole file, or of a folder's files; read once, about a second per GB.

        None for a host's model whose file's hash is not known. Raises CheckpointError when the file
        is gone.
        """
        return hash_files(self._files) if self.loan is None else self.loan.sha256

    @cached_property
    def vae_sha256(self) -> str | None:
        """Hash of the VAE that was given apart, None without one. Raises CheckpointError."""
        return hash_files(self._vae_files) if self._vae_files else None

    @property
    def identity(self) -> str:
        """What a resume state is bound to: equal for equal weights."""
        if self.loan is not None:
            return self.loan.identity
        both = f"{self.sha256} {self.vae_sha256}".encode()
        return hashlib.sha256(both).hexdigest() if self.vae_sha256 else str(self.sha256)

    def forget_weights(self) -> None:
        """Let go of all weights: the networks are on the meta device afterwards."""
        networks: list[nn.Module] = [*self.parts.values(), self._vae]
        for network in networks:
            network.to("meta")

    def encode_text(self, captions: list[str], options: TextOptions | None = None) -> Condition:
        """What captions tell the U-Net, in the compute dtype; gradients flow."""
        uses = TEXT_USES[self.family.key]
        encoders = tuple(self.text_encoders.values())
        return encode_captions(encoders, uses, self.tokenizer, captions, options or TextOptions())

    def predict(
        self, xt: Tensor, timestep: Tensor, condition: Condition, time_ids: Tensor | None = None
    ) -> Tensor:
        """The U-Net's output (B, 4, h, w) for noisy latents xt (B, 4, h, w) of any dtype.

        timestep: (B,). time_ids: (B, 6), SDXL only: original height and width, crop top and left,
        target height and width, pixels; None is a picture of the latents' size, not cropped.
        """
        context, pooled = condition
        xt = xt.to(context.dtype)
        if pooled is None:
            return self.unet(xt, timestep, context, return_dict=False)[0]
        if time_ids is None:
            time_ids = plain_time_ids(xt)
        # half precision would round sides of more than 256 pixels; the U-Net's own sine does not
        added = {"text_embeds": pooled, "time_ids": time_ids.float()}
        return self.unet(xt, timestep, context, added_cond_kwargs=added, return_dict=False)[0]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of the scaled latents of pictures, each (B, 4, H / 8, W / 8), fp32.

        pixels: (B, 3, H, W) in [-1, 1], sides multiples of 8.
        """
        if any(side % LATENT_STRIDE for side in pixels.shape[-2:]):
            raise ValueError(f"sides must be multiples of {LATENT_STRIDE}: {tuple(pixels.shape)}")
        moved = pixels.to(self.vae.device, self.vae_dtype)
        posterior = self._vae.encode(moved).latent_dist
        scale = self.latent_scale
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 8 h, 8 w) in [0, 1], fp32, of scaled latents (B, 4, h, w)."""
        moved = (latents / self.latent_scale).to(self.vae.device, self.vae_dtype)
        pixels = self._vae.decode(moved).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)


def load_base_model(
    checkpoint: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: Literal["auto", "epsilon", "v"] = "auto",
    zero_terminal_snr: Literal["auto", "yes", "no"] = "auto",
    vae_dtype: torch.dtype = VAE_DTYPE,
    vae: str | Path = "",
) -> BaseModel:
    """Load a checkpoint (a path, or "embedded" for the one that comes with the package).

    dtype: of U-Net and text encoder. vae: path of one to take instead of its own. "auto": as the
    file states it, otherwise as its family does. Raises CheckpointError for a file that can't be
    used, ConfigError for settings that contradict each other.
    """
    path = EMBEDDED if str(checkpoint) == "embedded" else Path(checkpoint)
    opened = open_source(path, vae)
    facts = resolve_facts(opened, prediction, zero_terminal_snr)
    device = torch.device(device)
    outline = outline_checkpoint(opened, facts)
    unet = outline.networks["unet"]
    for name, part in outline.parts.items():
        own_dtype = vae_dtype if name == "vae" else dtype
        fill(part, opened, Placement(device, own_dtype))
    build.use_quick_attention(unet, device)
    build.use_quick_layout(unet, device, own_weights=True)
    return BaseModel(outline.networks, facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a checkpoint is, before any of its weights is read: networks on the meta device."""

    facts: BaseFacts
    layout: Layout
    networks: dict[str, nn.Module]
    parts: dict[str, Part]


def outline_checkpoint(opened: Checkpoint, facts: BaseFacts) -> Outline:
    """Check a checkpoint's header against its family: milliseconds, whatever its size.

    Every tensor is matched by name and shape. Raises CheckpointError as loading it would, but for
    weights that are not finite.
    """
    stored = parts_of(opened, facts.family)
    layout = read_layout(opened, facts.family, stored)
    networks = build.make_networks(layout)
    parts = map_parts(opened, layout, stored, networks)
    return Outline(facts=facts, layout=layout, networks=networks, parts=parts)


def plain_time_ids(latents: Tensor) -> Tensor:
    """Time ids (B, 6) of pictures of latents (B, 4, h, w), neither resized nor cropped."""
    height, width = (side * LATENT_STRIDE for side in latents.shape[-2:])
    row = torch.tensor([height, width, 0, 0, height, width], device=latents.device)
    return row.expand(len(latents), -1)


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
        files=checkpoint.files,
        vae=checkpoint.vae,
    )


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of a file, 64 hex digits; of several, that of their own. Raises CheckpointError."""
    digests = [_hash_file(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read any more ({error.strerror}): put it back, a training is bound "
            "to the hash of its base model"
        ) from error
    return digest.hexdigest()
