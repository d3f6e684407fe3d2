"""How far two pictures are apart, as a heat map and as a percentage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

THRESHOLD = 20
"""Of 255: a pixel counts as changed where one of its channels differs by more than this."""

FULL_HEAT = 128
"""Of 255: the difference that is drawn in the last colour of the scale."""

_SCALE = np.array(
    [(16, 12, 32), (70, 20, 110), (165, 40, 110), (235, 95, 50), (255, 185, 60), (255, 250, 200)],
    dtype=np.float64,
)


class Difference(NamedTuple):
    """A heat map of a picture's size, and the share of pixels that changed, in percent."""

    heat: Image.Image
    percent: float


def difference(reference: Image.Image, picture: Image.Image) -> Difference:
    """Compare two pictures of one size: each pixel's largest difference in a channel."""
    levels = change_levels(reference, picture)
    return Difference(heat_map(levels), 100 * float((levels > THRESHOLD).mean()))


def change_levels(reference: Image.Image, picture: Image.Image) -> np.ndarray:
    """Give each pixel's largest difference in a channel, (H, W), 0 to 255."""
    first, second = (np.asarray(image.convert("RGB"), np.int16) for image in (reference, picture))
    return np.abs(first - second).max(axis=2)


def heat_map(levels: np.ndarray) -> Image.Image:
    """Colour differences (H, W) in 0 .. 255, from nearly black (none) to nearly white."""
    places = np.clip(levels / FULL_HEAT, 0, 1) * (len(_SCALE) - 1)
    marks = np.arange(len(_SCALE))
    channels = [np.interp(places, marks, _SCALE[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).round().astype(np.uint8))
