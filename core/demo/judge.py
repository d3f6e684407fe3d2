"""A judge that knows how the pictures were drawn: it finds background, colour and shape again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from .draw import BACKGROUNDS, COLOURS, FACES, RGB, SHAPES, Scene, draw

FAR = 50.0  # RGB distance at which a pixel no longer counts as background
GRID = 32  # side of the normalised masks
EMPTY = 0.02  # a mask of less than this fraction of the picture is no shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which of a scene's three properties a picture shows."""

    colour: bool
    shape: bool
    background: bool

    @property
    def all_right(self) -> bool:
        """Whether colour, shape and background are all as they should be."""
        return self.colour and self.shape and self.background


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the judge sees in a picture; names of the palettes, '' where it sees nothing."""

    colour: str
    shape: str
    background: str


def _nearest(colour: np.ndarray, palette: dict[str, RGB]) -> str:
    """Give the palette's name nearest to a colour, RGB in [0, 255]."""
    return min(palette, key=lambda name: float(np.abs(np.array(palette[name]) - colour).sum()))


def _border(pixels: np.ndarray) -> np.ndarray:
    """Give the pixels of a frame two pixels wide, (N, 3)."""
    frame = np.ones(pixels.shape[:2], bool)
    frame[2:-2, 2:-2] = False
    return pixels[frame]


def parts_of(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected parts of a mask from 1 on, and count them; 0 is what lies outside."""
    labelled: Any = ndimage.label(mask)
    return np.asarray(labelled[0]), int(labelled[1])


def _clean(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of a mask, (H, W) bool."""
    labels, count = parts_of(mask)
    if count < 2:
        return mask
    sizes = ndimage.sum(mask, labels, range(1, count + 1))
    return labels == 1 + int(np.argmax(sizes))


def _normalised(mask: np.ndarray) -> np.ndarray:
    """Cut a mask to its bounding square and scale it to GRID x GRID, floats in [0, 1]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(cut.shape)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut * 255
    scaled = Image.fromarray(square).resize((GRID, GRID), Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.float32) / 255


def _mask(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Give the shape's mask: pixels far from the background's colour, (H, W) bool."""
    return _clean(np.sqrt(((pixels - ground) ** 2).sum(-1)) > FAR)


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[str, np.ndarray], ...]:
    """Give the normalised masks of all shapes in all sizes."""
    found = []
    for shape in SHAPES:
        for size in ("small", "large"):
            scene = Scene(shape=shape, colour="black", background="white", size=size)
            pixels = np.asarray(draw(scene, 64, 64), np.float32)
            found.append((shape, _normalised(_mask(pixels, pixels[0, 0]))))
    return tuple(found)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two soft masks."""
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def look(image: Image.Image) -> Finding:
    """Find background, colour and shape in a picture of any size from 32 pixels up."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    ground = np.median(_border(pixels), axis=0)
    background = _nearest(ground, BACKGROUNDS)
    mask = _mask(pixels, ground)
    if mask.mean() < EMPTY:
        return Finding(colour="", shape="", background=background)
    core = np.asarray(ndimage.binary_erosion(mask))
    inside = pixels[core if core.sum() > 20 else mask]
    colour = _nearest(np.median(inside, axis=0), COLOURS)
    seen = _normalised(mask)
    shape = max(_templates(), key=lambda item: _overlap(seen, item[1]))[0]
    return Finding(colour=colour, shape=shape, background=background)


def judge_scene(image: Image.Image, scene: Scene) -> Verdict:
    """Judge a picture against a scene; a face counts as a circle."""
    finding = look(image)
    shape = "circle" if scene.shape in FACES else scene.shape
    return Verdict(
        colour=finding.colour == scene.colour,
        shape=finding.shape == shape,
        background=finding.background == scene.background,
    )
