"""What a checkpoint is, before any of its weights is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import build, families
from .checkpoint import open_checkpoint
from .families import Family
from .layouts import Layout, read_layout

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A checkpoint's family, layout and networks; the networks are on the meta device."""

    path: Path
    family: Family
    layout: Layout
    resolution: int
    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module


def outline_checkpoint(path: Path) -> Outline:
    """Check a checkpoint's header against its family: milliseconds, whatever its size.

    Every tensor is matched by name and shape. Raises CheckpointError as loading it would, but for
    weights that are not finite.
    """
    opened = open_checkpoint(path)
    family = families.require_trained(opened)
    layout = read_layout(opened)
    unet, vae = build.make_unet(layout), build.make_vae(layout)
    text_encoder = build.make_text_encoder(layout)
    build.map_parts(opened, layout, (unet, vae, text_encoder))
    return Outline(
        path=path,
        family=family,
        layout=layout,
        resolution=families.stated_resolution(opened, family),
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
    )
