"""Which noise levels a batch trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from .schedule import TIMESTEPS


def draw_timesteps(batch: int, generator: torch.Generator, timesteps: int = TIMESTEPS) -> Tensor:
    """Draw timesteps evenly from [0, timesteps): int64 (batch,), on the generator's device."""
    return torch.randint(0, timesteps, (batch,), generator=generator, device=generator.device)
