"""The part of a picture that matters: what a user's mask or a host's detector says it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ConfigError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""

FindPart = Callable[[Image.Image], Image.Image | Sequence[Box] | None]
"""Finds the part in a picture: a mask (white is the part), boxes, or None where there is none."""


class Part(NamedTuple):
    """Where the part is looked for: a mask for all pictures, or a function that finds it in each.

    With both, the mask.
    """

    mask: Image.Image | None = None
    find: FindPart | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything says what matters."""
        return self.mask is not None or self.find is not None

    def of(self, picture: Image.Image) -> np.ndarray | None:
        """Give the part of a picture, (H, W) bool; None where there is none in it.

        ConfigError for a mask that is all part or none.
        """
        if self.mask is not None:
            inside = _inside(self.mask, picture.size)
            if inside.all() or not inside.any():
                raise ConfigError(
                    f"the mask is all {'white' if inside.any() else 'black'}; it must be white "
                    "where the part is that matters, and black elsewhere"
                )
            return inside
        found = self.find(picture) if self.find is not None else None
        if found is None:
            return None
        is_mask = isinstance(found, Image.Image)
        inside = _inside(found, picture.size) if is_mask else _boxed(found, picture.size)
        return inside if inside.any() and not inside.all() else None


def _inside(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Fit a mask of any size and mode to a picture; transparent pixels are black."""
    if mask.mode in {"LA", "RGBA", "PA"} or "transparency" in mask.info:
        seen = mask.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
    fitted = mask.convert("L").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(fitted) > 127


def _boxed(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    inside = np.zeros((size[1], size[0]), bool)
    for box in boxes:
        left, top, right, bottom = (max(0, round(side)) for side in box)
        inside[top:bottom, left:right] = True
    return inside
