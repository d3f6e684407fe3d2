"""The noise schedule: what is left of the picture at a timestep, and what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError

Prediction = Literal["epsilon", "v"]

TIMESTEPS = 1000
BETA_START = 0.00085
BETA_END = 0.012

# Where alpha_bar is 0, sigma would be infinite. Samplers put this value there, sigma 4518.76, as do
# the WebUI (modules/sd_models.py) and ComfyUI (comfy/model_sampling.py).
SMALLEST_ALPHA_BAR = 4.8973451890853435e-08


@dataclass(frozen=True, slots=True, eq=False)
class NoiseSchedule:
    """Noise levels of a model and its kind of prediction.

    alpha_bar: (T,) float, cumulative product of 1 - beta, strictly falling, within [0, 1).
    Index 0 is the cleanest level. With zero terminal SNR the last value is exactly 0.
    """

    alpha_bar: Tensor
    prediction: Prediction = "epsilon"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v"):
            raise ConfigError(
                f"base.prediction is {self.prediction!r}; it must be 'epsilon' or 'v'"
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ConfigError(
                "base.zero_terminal_snr is on, but base.prediction is 'epsilon': at the last "
                "timestep there is only noise, and predicting it says nothing of the picture. Set "
                "base.zero_terminal_snr to 'no', or base.prediction to 'v' if the checkpoint was "
                "trained so"
            )
        levels = self.alpha_bar
        if levels.ndim != 1 or len(levels) < 2 or not bool((levels[1:] < levels[:-1]).all()):
            raise ConfigError(
                f"alpha_bar of shape {tuple(levels.shape)} must be one strictly falling row"
            )
        lowest, highest = float(levels[-1]), float(levels[0])
        if lowest < 0 or highest >= 1 or (lowest == 0) != self.zero_terminal_snr:
            raise ConfigError(
                f"alpha_bar falls from {highest:g} to {lowest:g}; it must lie in [0, 1), and end "
                "at 0 where zero terminal SNR is on, above 0 where it is off"
            )

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """Give the same schedule on `device`, so that looking a timestep up needs no transfer."""
        return replace(self, alpha_bar=self.alpha_bar.to(device))

    def at(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Look up alpha_bar at whole timesteps (B,): float32 (B, 1, ..), broadcasts over `like`."""
        levels = self.alpha_bar.to(like.device)[timestep.to(like.device)].float()
        return levels.reshape(-1, *(1,) * (like.ndim - 1))

    def sigmas(self) -> Tensor:
        """Give sqrt((1 - alpha_bar) / alpha_bar): (T,) float64 on the CPU, rising, finite."""
        alpha_bar = self.alpha_bar.detach().cpu().double().clamp(min=SMALLEST_ALPHA_BAR)
        return ((1 - alpha_bar) / alpha_bar).sqrt()


def scaled_linear(
    prediction: Prediction = "epsilon",
    zero_terminal_snr: bool = False,
    *,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
    timesteps: int = TIMESTEPS,
) -> NoiseSchedule:
    """Make Stable Diffusion's schedule: sqrt(beta) evenly spaced (Rombach et al. 2022, LDM)."""
    beta = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    if zero_terminal_snr:
        alpha_bar = rescaled_to_zero_terminal_snr(alpha_bar)
    return NoiseSchedule(alpha_bar.float(), prediction, zero_terminal_snr)


def rescaled_to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar), (T,), so that the first value stays and the last is 0.

    Lin et al. 2023, algorithm 1.
    """
    root = alpha_bar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


def add_noise(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Give xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (Ho et al. 2020, eq. 4).

    x0 and noise: (B, ..); timestep: (B,), whole numbers. Computed in float32, in x0's dtype.
    """
    alpha_bar = schedule.at(timestep, x0)
    return (alpha_bar.sqrt() * x0.float() + (1 - alpha_bar).sqrt() * noise.float()).to(x0.dtype)


def target(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Give what is to be predicted: noise, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0.

    Shapes as in `add_noise`. Salimans and Ho 2022, appendix D.
    """
    if schedule.prediction == "epsilon":
        return noise
    alpha_bar = schedule.at(timestep, x0)
    return (alpha_bar.sqrt() * noise.float() - (1 - alpha_bar).sqrt() * x0.float()).to(x0.dtype)


def predicted_x0(schedule: NoiseSchedule, xt: Tensor, output: Tensor, timestep: Tensor) -> Tensor:
    """Give the clean latents (float32, (B, ..)) that the model's output at xt means."""
    alpha_bar = schedule.at(timestep, xt)
    if schedule.prediction == "v":
        return alpha_bar.sqrt() * xt.float() - (1 - alpha_bar).sqrt() * output.float()
    return (xt.float() - (1 - alpha_bar).sqrt() * output.float()) / alpha_bar.sqrt()


def predicted_noise(
    schedule: NoiseSchedule, xt: Tensor, output: Tensor, timestep: Tensor
) -> Tensor:
    """Give the noise (float32, (B, ..)) that the model's output at xt means."""
    if schedule.prediction == "epsilon":
        return output.float()
    alpha_bar = schedule.at(timestep, xt)
    return alpha_bar.sqrt() * output.float() + (1 - alpha_bar).sqrt() * xt.float()
