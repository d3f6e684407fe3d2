"""Training the base model's U-Net: the latents of the world, and the loss."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base_parts import LATENT_SCALE, WORKERS, alpha_bars
from .draw import caption, draw, sample_scene
from .train_vae import to_tensor

SIZES: dict[tuple[int, int], float] = {  # (width, height) and its share of the pictures
    (64, 64): 0.80,
    (48, 80): 0.035,
    (80, 48): 0.035,
    (56, 72): 0.035,
    (72, 56): 0.035,
    (96, 96): 0.02,
    (64, 128): 0.02,
    (128, 64): 0.02,
}
LATE = ((96, 96), (64, 128), (128, 64))  # dear ones, shown near the end only
CAPTIONS = 3

World = dict[tuple[int, int], tuple[Tensor, list[list[str]]]]


@torch.no_grad()
def make_world(vae: Any, seed: int, count: int) -> World:
    """Draw pictures with captions and encode them.

    For each size latents (N, 4, H / 8, W / 8), scaled, and each picture's captions.
    """
    world: World = {}
    for number, ((width, height), share) in enumerate(SIZES.items()):
        rng = np.random.default_rng((seed, 3, number))
        latents, texts = [], []
        for _ in range(max(1, int(count * share / 32))):
            scenes = [sample_scene(rng) for _ in range(32)]
            texts += [[caption(scene, rng) for _ in range(CAPTIONS)] for scene in scenes]
            pixels = to_tensor([draw(scene, width, height) for scene in scenes])
            pixels = pixels.to(memory_format=torch.channels_last)
            latents.append(vae.encode(pixels).latent_dist.mean * LATENT_SCALE)
        world[width, height] = (torch.cat(latents).contiguous(), texts)
    return world


def unet_batch(
    world: World, seed: int, step: int, count: int, share: float
) -> tuple[Tensor, list[str]]:
    """Choose latents (B, 4, h, w) of one size and a caption for each, one in ten empty.

    share: of the run, in [0, 1].
    """
    rng = np.random.default_rng((seed, 4, step))
    sizes = [size for size in world if share > 0.7 or size not in LATE]
    weights = np.array([SIZES[size] for size in sizes])
    size = sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]
    latents, texts = world[size]
    count = count // 2 if size in LATE else count
    chosen = rng.integers(len(latents), size=count)
    said = [texts[k][int(rng.integers(CAPTIONS))] if rng.random() > 0.1 else "" for k in chosen]
    return latents[torch.from_numpy(chosen)], said


def noised(latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise at evenly spread timesteps: xt, noise (B, 4, h, w) and timesteps (B,)."""
    count = latents.shape[0]
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    times = (spread * 1000).long().clamp(max=999)
    bars = alpha_bars()[times][:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    return bars.sqrt() * latents + (1 - bars).sqrt() * noise, noise, times


def unet_loss(unet: Any, latents: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of the noise, weighted by min(SNR, 5) / SNR (Hang et al. 2023); a scalar."""
    xt, noise, times = noised(latents, generator)
    bars = alpha_bars()[times]
    snr = bars / (1 - bars)
    out = unet(xt, times, context).sample
    return ((out - noise).square().mean((1, 2, 3)) * (snr.clamp(max=5) / snr)).mean()


class Replicas:
    """Copies of a U-Net over the same weights; each works on its part of a batch, on one thread.

    Threads that do not wait for each other inside an operation lose little on a busy machine.
    """

    def __init__(self, unet: Any) -> None:
        self.all = [unet, *(copy.deepcopy(unet) for _ in range(WORKERS - 1))]
        for other in self.all[1:]:
            for mine, theirs in zip(unet.parameters(), other.parameters(), strict=True):
                theirs.data = mine.data

    def backward(self, latents: Tensor, context: Tensor, seed: int) -> float:
        """Leave the batch's mean gradient in the first copy; give the mean loss."""

        def part(number: int) -> float:
            noise = torch.Generator().manual_seed(seed * WORKERS + number)
            mine = latents[number::WORKERS].contiguous(memory_format=torch.channels_last)
            loss = unet_loss(self.all[number], mine, context[number::WORKERS], noise) / WORKERS
            loss.backward()
            return loss.item()

        with ThreadPoolExecutor(WORKERS) as pool:
            losses = list(pool.map(part, range(WORKERS)))
        for other in self.all[1:]:
            for mine, theirs in zip(self.all[0].parameters(), other.parameters(), strict=True):
                mine.grad += theirs.grad
                theirs.grad = None
        return sum(losses)
