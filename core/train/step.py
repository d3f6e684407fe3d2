"""One forward pass of the training objective."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..diffusion.loss import min_snr_weight, weighted_mse
from ..diffusion.noise import offset_noise
from ..diffusion.schedule import NoiseSchedule, add_noise, target
from ..diffusion.timesteps import draw_timesteps
from ..randomness import generator

Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents (B, 4, h, w) and timestep (B,) to the model's output (B, 4, h, w)."""


class Latents(NamedTuple):
    """Posterior of the VAE for one micro-batch, scaled: mean and std, each (B, 4, h, w), fp32."""

    mean: Tensor
    std: Tensor


class Draws(NamedTuple):
    """All that is random in one micro-batch: latent noise and noise (B, 4, h, w), timestep (B,)."""

    latent_noise: Tensor
    noise: Tensor
    timestep: Tensor


class Objective(NamedTuple):
    """What is minimised: the noise schedule, the weight of each timestep (1000,), noise offset."""

    schedule: NoiseSchedule
    weight: Tensor
    noise_offset: float


def make_objective(
    schedule: NoiseSchedule, min_snr_gamma: float, noise_offset: float, device: torch.device
) -> Objective:
    """Tables of the objective on `device`, made once; `min_snr_gamma` 0 weighs all alike."""
    on_device = replace(schedule, alpha_bar=schedule.alpha_bar.to(device))
    weight = min_snr_weight(on_device.alpha_bar, min_snr_gamma, schedule.prediction)
    return Objective(on_device, weight, noise_offset)


def draw(seed: int, step: int, micro: int, shape: torch.Size, noise_offset: float) -> Draws:
    """The draws of micro-batch `micro` of optimizer step `step`: a function of its arguments.

    Made on the CPU whatever the device, so that a run repeats on any machine, and nothing that
    happens between two steps (a preview, a resume) can change it.
    """
    chance = generator(seed, "train", step, micro)
    latent_noise = torch.randn(shape, generator=chance)
    timestep = draw_timesteps(shape[0], chance)
    noise = offset_noise(torch.randn(shape, generator=chance), noise_offset, chance)
    return Draws(latent_noise, noise, timestep)


def denoising_loss(
    predict: Predict, latents: Latents, draws: Draws, objective: Objective
) -> Tensor:
    """Weighted mean squared error between the U-Net's output and its target, a 0-dim fp32 tensor.

    The noisy latents need no gradient, so the backward
    pass ends at the first adapter.
    """
    x0 = latents.mean + latents.std * draws.latent_noise
    xt = add_noise(objective.schedule, x0, draws.noise, draws.timestep)
    output = predict(xt, draws.timestep)
    wanted = target(objective.schedule, x0, draws.noise, draws.timestep)
    return weighted_mse(output, wanted, objective.weight[draws.timestep])
