"""A host that draws with its own sampler on the base model it has lent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """One picture to be drawn.

    sampler, scheduler: as the host calls them; an empty scheduler is the sampler's own. width,
    height: pixels. clip_skip: the last layer of CLIP that is read, 1 for the very last.
    """

    text: str
    negative: str
    seed: int
    sampler: str
    scheduler: str
    steps: int
    guidance: float
    width: int
    height: int
    clip_skip: int


class Artist(Protocol):
    """Draws as its host does: its reading of prompts, its sampler, its VAE.

    The networks that are attached to the base model act in its pictures.
    """

    def check(self, sampler: str, scheduler: str) -> None:
        """Raise ConfigError where the host knows no such sampler or scheduler, or can't draw."""
        ...

    def draw(self, brief: Brief, on_step: Callable[[int], bool]) -> Image.Image | None:
        """Draw a picture; None where it was stopped.

        on_step(n): called before step n, counted from 1; False stops.
        """
        ...
