"""Pictures of the base model while it is trained, and the judge's score of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base_parts import LATENT_SCALE, alpha_bars
from .draw import Scene, describe, sample_scene
from .judge import judge_scene
from .train_vae import to_images


def check_scenes(count: int, seed: int = 1000) -> list[Scene]:
    """Draw the scenes of the base's prompts; the same for a seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


@torch.no_grad()
def sample_latents(
    unet: Any, context: Tensor, empty: Tensor, size: tuple[int, int], guidance: float = 5.0
) -> Tensor:
    """Sample latents (B, 4, *size) by 20 DDIM steps (Song et al. 2021).

    context: (B, T, 96), empty: (1, T, 96), hidden states of the prompts and of the empty one.
    """
    count, bars = context.shape[0], alpha_bars()
    noise = torch.Generator().manual_seed(count)
    x = torch.randn(count, 4, *size, generator=noise)
    both = torch.cat([context, empty.expand_as(context)])
    times = list(range(951, 0, -50))
    for place, time in enumerate(times):
        bar = bars[time]
        after = bars[times[place + 1]] if place + 1 < len(times) else bars[0]
        out = unet(torch.cat([x, x]), torch.tensor(time), both).sample
        with_text, without = out.chunk(2)
        guess = without + guidance * (with_text - without)
        clean = (x - (1 - bar).sqrt() * guess) / bar.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * guess
    return x


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> list[Image.Image]:
    """Turn scaled latents into pictures, a few at a time."""
    parts = [vae.decode(part / LATENT_SCALE).sample for part in latents.split(16)]
    return to_images(torch.cat(parts))


def score(images: list[Image.Image], scenes: list[Scene]) -> dict[str, float]:
    """Share of pictures with the right colour, shape, background, and all three."""
    verdicts = [judge_scene(image, scene) for image, scene in zip(images, scenes, strict=True)]
    names = ("colour", "shape", "background", "all_right")
    return {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in names}


def sheet(images: list[Image.Image], columns: int = 10) -> Image.Image:
    """Lay pictures of one size out in rows."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + 2), rows * (height + 2)), (200, 0, 200))
    for place, image in enumerate(images):
        page.paste(image, (place % columns * (width + 2), place // columns * (height + 2)))
    return page


def prompts(scenes: list[Scene]) -> list[str]:
    """The scenes' full captions."""
    return [describe(scene) for scene in scenes]
