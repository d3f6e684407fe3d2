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
    """How a seed becomes noise; equal where it becomes the same.

    title: as the WebUI's pictures say it ("RNG"). begin: gives the noise of a seed. later: added to
    the seed for all noise after the first, where it is not 0 (the WebUI's "ENSD").
    """

    title: str
    begin: Callable[[int], Noise]
    later: int = 0

    @property
    def name(self) -> str:
        """What tells it from others, for people."""
        return f"{self.title}, ENSD {self.later}" if self.later else self.title

    def noise(self, seed: int) -> Noise:
        """A picture's noise: what it begins with, then what its sampler adds on the way."""
        if not self.later:
            return self.begin(seed)
        rest = iter((self.begin(seed),))
        later = self.begin(seed + self.later)
        return lambda shape: next(rest, later)(shape)


def _on_cpu(seed: int) -> Noise:
    chance = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=chance)


ON_CPU = Seeding("CPU", _on_cpu)
"""ComfyUI's way, and that of the WebUI without a GPU: the same picture on every machine."""
