"""Samplers for previews, in the formulation of k-diffusion (Karras et al. 2022, Crowson's code).

The model is seen as a denoiser D(x, sigma) of x = x0 + sigma * noise. A picture then follows
dx/dsigma = (x - D(x, sigma)) / sigma from the largest sigma down to 0. As in the WebUI, a sigma
between two of the schedule's levels becomes a fractional timestep, interpolated in log sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .schedule import NoiseSchedule
from .seeds import Noise

Denoise = Callable[
    [Tensor, Tensor], Tensor
]  # xt (B, 4, h, w), timestep (B,) float32 -> the model's output
Denoiser = Callable[[Tensor, float], Tensor]  # x (B, 4, h, w), sigma -> x0
Noises = Sequence[Noise] | None
KARRAS_RHO = 7.0


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Which sampler (a key of SAMPLERS) and how many calls of the model."""

    sampler: str
    steps: int

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise ConfigError(f"preview.sampler is {self.sampler!r}; it must be one of {known}")
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"preview.steps is {self.steps}; it must be 1 to 1000")


def sample(
    denoise: Denoise,
    noise: Tensor,
    request: SampleRequest,
    schedule: NoiseSchedule,
    noises: Noises = None,
) -> Tensor:
    """Turn noise into latents x0, float32 (B, 4, h, w), in `request.steps` calls of `denoise`.

    denoise: gets xt as in training (variance kept) and the timesteps, and gives epsilon or v as
    the schedule says. noise: (B, 4, h, w), unit variance. noises: for samplers that add noise
    on the way; one for each picture, so that none depends on its batch.
    """
    sampler = SAMPLERS[request.sampler]
    sigmas = sampler.sigmas(schedule, request.steps)
    start = noise.float() * sigmas[0]
    return sampler.run(denoiser(denoise, schedule), start, sigmas, noises)


def denoiser(denoise: Denoise, schedule: NoiseSchedule) -> Denoiser:
    """See the model as D(x, sigma): scale x to the model's input, and read its output as x0."""
    log_sigmas = schedule.sigmas().log()

    def x0_of(x: Tensor, sigma: float) -> Tensor:
        root = math.sqrt(1 + sigma**2)
        level = timestep_of(log_sigmas, sigma)
        timestep = torch.full((len(x),), level, dtype=torch.float32, device=x.device)
        output = denoise(x / root, timestep).float()
        if schedule.prediction == "v":
            return x / root**2 - output * (sigma / root)
        return x - output * sigma

    return x0_of


def timestep_of(log_sigmas: Tensor, sigma: float) -> float:
    """Give a sigma's fractional timestep, linear in log sigma between two levels."""
    log_sigma = math.log(sigma)
    high = int(torch.searchsorted(log_sigmas, log_sigma).clamp(1, len(log_sigmas) - 1))
    below, above = float(log_sigmas[high - 1]), float(log_sigmas[high])
    return high - 1 + min(max((log_sigma - below) / (above - below), 0.0), 1.0)


def even_sigmas(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Give sigmas at evenly spaced timesteps, last to first, then 0 (k-diffusion's default)."""
    log_sigmas = schedule.sigmas().log()
    timesteps = torch.linspace(len(log_sigmas) - 1, 0, steps, dtype=torch.float64)
    low = timesteps.floor().long()
    part = timesteps - low
    high = timesteps.ceil().long()
    return [*((1 - part) * log_sigmas[low] + part * log_sigmas[high]).exp().tolist(), 0.0]


def karras_sigmas(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Give sigmas evenly spaced in sigma^(1/7) from the largest to the smallest, then 0.

    Karras et al. 2022, eq. 5.
    """
    sigmas = schedule.sigmas()
    largest = float(sigmas[-1]) ** (1 / KARRAS_RHO)
    smallest = float(sigmas[0]) ** (1 / KARRAS_RHO)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return [*((largest + ramp * (smallest - largest)) ** KARRAS_RHO).tolist(), 0.0]


def trailing_sigmas(schedule: NoiseSchedule, steps: int) -> list[float]:
    """Give sigmas at the whole timesteps T - 1, T - 1 - T/n, .., then 0.

    "Trailing" spacing (Lin et al. 2023, table 2). Unlike the WebUI's DDIM, which starts below the
    last timestep and stops above sigma 0, this begins at pure noise and ends at a clean picture.
    """
    sigmas = schedule.sigmas()
    total = len(sigmas)
    return [*(float(sigmas[round(total * (steps - k) / steps) - 1]) for k in range(steps)), 0.0]


def euler(x0_of: Denoiser, x: Tensor, sigmas: Sequence[float], noises: Noises = None) -> Tensor:
    """Take Euler steps (Karras et al. 2022, alg. 1 without correction); draws no noise.

    x: (B, ..) = x0 + sigmas[0] * noise; sigmas falling; the result stands at sigmas[-1].
    DDIM with eta 0 takes the same steps (Song et al. 2021, eq. 13 and 14).
    """
    del noises
    for sigma, following in pairwise(sigmas):
        x = _towards(x0_of(x, sigma), x, following / sigma)
    return x


def euler_ancestral(
    x0_of: Denoiser, x: Tensor, sigmas: Sequence[float], noises: Noises = None
) -> Tensor:
    """Take Euler steps to below the next sigma, and add noise up to it (k-diffusion, eta 1)."""
    for sigma, following in pairwise(sigmas):
        down = following**2 / sigma
        up = following * math.sqrt(max(1 - (following / sigma) ** 2, 0.0))
        x = _towards(x0_of(x, sigma), x, down / sigma)
        if up > 0:
            x = x + up * _noise_like(x, noises)
    return x


def dpmpp_2m(x0_of: Denoiser, x: Tensor, sigmas: Sequence[float], noises: Noises = None) -> Tensor:
    """Take DPM-Solver++ (2M) steps (Lu et al. 2022, alg. 2), evenly in -log sigma; draws no noise.

    The first step, and the last one to 0, are of first order, as in k-diffusion.
    """
    del noises
    previous: Tensor | None = None
    width_before = 0.0
    for sigma, following in pairwise(sigmas):
        x0 = x0_of(x, sigma)
        guess = x0
        width = math.log(sigma / following) if following > 0 else math.inf
        if previous is not None and following > 0:
            guess = x0 + (x0 - previous) * (width / (2 * width_before))
        x = _towards(guess, x, following / sigma)
        previous, width_before = x0, width
    return x


class Sampler(NamedTuple):
    """A sampler: its sigmas, its steps, and the names that the WebUI writes for it."""

    sigmas: Callable[[NoiseSchedule, int], list[float]]
    run: Callable[[Denoiser, Tensor, Sequence[float], Noises], Tensor]
    title: str
    schedule_title: str = ""


SAMPLERS: dict[str, Sampler] = {
    "euler_a": Sampler(even_sigmas, euler_ancestral, "Euler a"),
    "euler": Sampler(even_sigmas, euler, "Euler"),
    "dpmpp_2m_karras": Sampler(karras_sigmas, dpmpp_2m, "DPM++ 2M", "Karras"),
    "ddim": Sampler(trailing_sigmas, euler, "DDIM"),
}


def _towards(x0: Tensor, x: Tensor, ratio: float) -> Tensor:
    """Shrink the distance from x0 by `ratio`; 0 gives x0 exactly."""
    return x0 + ratio * (x - x0) if ratio > 0 else x0


def _noise_like(x: Tensor, noises: Noises) -> Tensor:
    """Draw unit noise for a batch (B, ..), a picture after the other."""
    if noises is None:
        raise ConfigError("this sampler draws noise on the way; it needs a source of it")
    if len(noises) != len(x):
        raise ConfigError(f"{len(noises)} sources of noise for {len(x)} pictures; give each one")
    return torch.stack([noise(tuple(x.shape[1:])) for noise in noises]).to(x.device)
