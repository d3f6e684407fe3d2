"""A picture to plot on: lines, boxes and text, antialiased."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .fonts import drawable, font_for

PAPER, INK, FAINT = (255, 255, 255), (30, 30, 34), (110, 110, 118)
FRAME, LINES = (150, 150, 156), (232, 232, 236)
LARGER = 2  # drawn at twice the size and shrunk, since Pillow's lines are not antialiased

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """Draws at `LARGER` times the size; every coordinate is given in pixels of the result."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        self._image = Image.new("RGB", (width * LARGER, height * LARGER), PAPER)
        self._pen = ImageDraw.Draw(self._image)

    def write(self, at: Point, text: str, size: int, anchor: str, ink: Colour = INK) -> None:
        """Write one line whose left, middle or right ("l", "m", "r") lies at a point."""
        font = font_for(text, size * LARGER)
        text = drawable(" ".join(text.split()), font)
        x, y = at[0] * LARGER, at[1] * LARGER
        width = self._pen.textlength(text, font=font)
        x -= {"l": 0.0, "m": width / 2, "r": width}[anchor]
        self._pen.text((x, y - size * LARGER * 0.6), text, fill=ink, font=font)

    def line(self, points: Sequence[Point], ink: Colour, width: int = 1) -> None:
        """Draw a line through points."""
        scaled = [(x * LARGER, y * LARGER) for x, y in points]
        self._pen.line(scaled, fill=ink, width=width * LARGER, joint="curve")

    def dot(self, point: Point, ink: Colour) -> None:
        """Draw a disc of three pixels' radius."""
        box = [(side + shift) * LARGER for shift in (-3, 3) for side in point]
        self._pen.ellipse(box, fill=ink)

    def box(self, corner: Point, other: Point, ink: Colour) -> None:
        """Fill a box between two corners, both of them inside."""
        self._pen.rectangle([side * LARGER for point in (corner, other) for side in point], ink)

    def finished(self) -> Image.Image:
        """Give the picture at its size."""
        return self._image.resize(self._size, Image.Resampling.LANCZOS)
