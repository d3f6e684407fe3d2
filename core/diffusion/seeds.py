"""A picture's noise by its seed, as the programs make it in which people draw."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SEEDS = 2**64

# Unit noise of a shape; each call goes on where the last one ended.
Noise = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True, slots=True)
class Seeding:
    """How a seed becomes noise. title: as the WebUI's pictures say it ("RNG")."""

    title: str
    noise: Callable[[int], Noise]


def _on_cpu(seed: int) -> Noise:
    chance = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=chance)


ON_CPU = Seeding("CPU", _on_cpu)
"""ComfyUI's way, and that of the WebUI without a GPU: the same picture on every machine."""
