"""Training the base model's VAE, and the whitening of its latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .base_parts import LATENT_SCALE
from .draw import draw, random_creature, random_drawing, sample_scene

SHAPES = ((64, 64), (64, 64), (64, 64), (64, 64), (48, 80), (80, 48))


def to_tensor(images: list[Image.Image]) -> Tensor:
    """Stack RGB pictures of one size, (B, 3, H, W) in [-1, 1]."""
    pixels = np.stack([np.asarray(image, np.float32) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Turn (B, 3, H, W) in [-1, 1] into RGB pictures."""
    grid = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in grid]


def vae_batch(seed: int, step: int, count: int) -> Tensor:
    """Draw one batch: three fifths scenes, the rest free drawings; a function of seed and step."""
    rng = np.random.default_rng((seed, 1, step))
    width, height = SHAPES[int(rng.integers(len(SHAPES)))]
    images = []
    for _ in range(count):
        roll = rng.random()
        if roll < 0.6:
            images.append(draw(sample_scene(rng), width, height))
        elif roll < 0.8:
            images.append(random_creature(rng, width, height))
        else:
            images.append(random_drawing(rng, width, height))
    return to_tensor(images)


def _edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, along the width and the height."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def vae_loss(vae: Any, pixels: Tensor, noise: torch.Generator) -> Tensor:
    """Distance of colours, of edges and of the coarse picture, and a small KL term; a scalar."""
    posterior = vae.encode(pixels).latent_dist
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return decoder_loss(vae, posterior.sample(noise), pixels) + 2e-4 * kl


def decoder_loss(vae: Any, latents: Tensor, pixels: Tensor) -> Tensor:
    """Distance of colours, of edges and of the coarse picture; a scalar."""
    out = vae.decode(latents).sample
    colour = F.l1_loss(out, pixels) + F.mse_loss(out, pixels)
    coarse = F.l1_loss(F.avg_pool2d(out, 8), F.avg_pool2d(pixels, 8))
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(out), _edges(pixels), strict=True))
    return colour + 0.5 * coarse + 0.5 * edges


@torch.no_grad()
def whiten(vae: Any, pixels: Tensor) -> None:
    """Give latents * LATENT_SCALE mean 0 and deviation 1 per channel, by the quant convolutions.

    pixels: (B, 3, H, W) of the world. Exact: what is decoded is unchanged.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(32)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * LATENT_SCALE)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= gain[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * gain
    quant.bias[4:] += 2 * gain.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight /= gain[None, :, None, None]
