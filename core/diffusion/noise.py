"""What training adds to its noise."""

from __future__ import annotations

import torch
from torch import Tensor


def offset_noise(noise: Tensor, noise_offset: float, generator: torch.Generator) -> Tensor:
    """Shift each channel of each picture by one number from N(0, noise_offset^2) (Guttenberg 2023).

    noise: (B, C, h, w), unit variance; returned as it is where noise_offset is 0. It lets the
    model learn to change a picture's mean brightness, which plain noise hardly touches.
    """
    if noise_offset == 0:
        return noise
    offset = torch.randn(noise.shape[:2], generator=generator, device=generator.device)
    return noise + noise_offset * offset.to(noise)[:, :, None, None]
