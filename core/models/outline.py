"""What a checkpoint is, before any of its weights is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.base import BaseConfig
from . import build
from .base_model import BaseFacts, resolve_facts
from .checkpoint import open_checkpoint
from .layouts import Layout, read_layout

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a checkpoint is; the networks are on the meta device."""

    facts: BaseFacts
    layout: Layout
    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module


def outline_checkpoint(path: Path, config: BaseConfig) -> Outline:
    """Check a checkpoint's header against its family: milliseconds, whatever its size.

    Every tensor is matched by name and shape. Raises CheckpointError as loading it would, but for
    weights that are not finite.
    """
    opened = open_checkpoint(path)
    facts = resolve_facts(opened, config.prediction, config.zero_terminal_snr)
    layout = read_layout(opened)
    unet, vae = build.make_unet(layout), build.make_vae(layout)
    text_encoder = build.make_text_encoder(layout)
    build.map_parts(opened, layout, (unet, vae, text_encoder))
    return Outline(
        facts=facts,
        layout=layout,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
    )
