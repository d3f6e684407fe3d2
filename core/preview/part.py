"""The part of a picture that matters: what a user's mask or a host's detector says it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ConfigError, TrainerError
from ..log import logger

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""

FindPart = Callable[[Image.Image], Image.Image | Sequence[Box] | None]
"""Finds the part in a picture: a mask (white is the part), boxes, or None where there is none."""

_FAULTS = (TrainerError, ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


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

        A function that fails has found none, with a warning. ConfigError as of `check`.
        """
        if self.mask is not None:
            return _masked(self.mask, picture.size)
        if self.find is None:
            return None
        try:
            inside = _found(self.find(picture), picture.size)
        except _FAULTS as error:  # what is drawn by now shall not be lost
            logger.warning(
                "what looks for the part failed on a picture, which counts as one without it (%s); "
                "it must give a mask, boxes (left, top, right, bottom) or None. A mask of your own "
                "does without it",
                error,
            )
            return None
        return inside if inside.any() and not inside.all() else None

    def check(self, size: tuple[int, int]) -> None:
        """Refuse, before anything is drawn, a mask that is of no use for pictures of this size.

        ConfigError where it can't be read, and where it is all part or none.
        """
        if self.mask is not None:
            _masked(self.mask, size)


def _masked(mask: Image.Image, size: tuple[int, int]) -> np.ndarray:
    try:
        inside = _inside(mask, size)
    except (OSError, SyntaxError, ValueError) as error:  # a file is read at its first use
        raise ConfigError(f"the mask can't be read: {error}; save it again as PNG") from error
    if inside.all() or not inside.any():
        raise ConfigError(
            f"the mask is all {'white' if inside.any() else 'black'}; it must be white "
            "where the part is that matters, and black elsewhere"
        )
    return inside


def _found(found: Image.Image | Sequence[Box] | None, size: tuple[int, int]) -> np.ndarray:
    if isinstance(found, Image.Image):
        return _inside(found, size)
    return _boxed(() if found is None else found, size)


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
