"""The picture of a grid: cells, heat maps, labels and footer, laid out and drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .difference import FULL_HEAT, THRESHOLD, Difference, heat_map
from .fonts import font_for, line_height, wrap

PAPER, INK, FAINT, EMPTY = (255, 255, 255), (20, 20, 24), (110, 110, 118), (222, 222, 226)
MARGIN, GAP, LABEL_WIDTH, LEAST_COLUMN = 20, 10, 210, 120
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 24, 18, 14
MOST_HEADER_LINES, MOST_PROMPT_LINES, MOST_FOOTER_LINES = 3, 8, 6
SMALL_PICTURE, LARGE_PICTURE, MOST_PIXELS = 160, 512, 60_000_000

Cells = Sequence[Sequence[Image.Image | None]]
Differences = Sequence[Sequence[Difference | None]]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The words of a grid. columns: (title, note) each; rows: (prompt, note) each."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str], ...]
    footer: str
    picture_size: tuple[int, int]


class _Layout(NamedTuple):
    """Pixels: a shown picture's size, a column's width, and where columns and rows begin."""

    shown: tuple[int, int]
    column: int
    top: int
    row: int
    width: int
    height: int

    def corner(self, row: int, column: int, below: int = 0) -> tuple[int, int]:
        """Give the upper left corner of a picture, or with below = 1 of its heat map."""
        left = MARGIN + LABEL_WIDTH + GAP + column * (self.column + GAP)
        left += (self.column - self.shown[0]) // 2
        return left, self.top + row * self.row + below * (self.shown[1] + 4)


def draw_sheet(sheet: Sheet, cells: Cells, differences: Differences) -> Image.Image:
    """Draw pictures and, under each, its heat map with the percentage of changed pixels."""
    layout = _lay_out(sheet)
    image = Image.new("RGB", (layout.width, layout.height), PAPER)
    pen = _Pen(image)
    pen.write((MARGIN, MARGIN), sheet.title, TITLE_SIZE, layout.width - 2 * MARGIN, 1)
    _draw_headers(pen, sheet, layout)
    for row, (prompt, note) in enumerate(sheet.rows):
        _draw_label(pen, layout, row, (prompt, note))
        for column, cell in enumerate(cells[row]):
            _paste(image, cell, layout.corner(row, column), layout.shown, Image.Resampling.BICUBIC)
            found = differences[row][column]
            corner = layout.corner(row, column, below=1)
            heat = found.heat if found else None
            _paste(image, heat, corner, layout.shown, Image.Resampling.NEAREST)
            if found:
                place = (corner[0], corner[1] + layout.shown[1] + 2)
                pen.write_centred(place, f"{found.percent:.1f} %", SMALL_SIZE, layout.shown[0], INK)
    end = _draw_footer(image, pen, sheet, layout)
    return image.crop((0, 0, layout.width, end + MARGIN))


def shown_size(width: int, height: int, cells: int) -> tuple[int, int]:
    """Give the size at which one of `cells` pictures is shown: small ones enlarged 2 to 4 times."""
    longest = max(width, height)
    most = min(LARGE_PICTURE, max(64.0, math.sqrt(MOST_PIXELS / cells)))
    factor = min(4, math.ceil(SMALL_PICTURE / longest))
    scale = min(float(factor), most / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


class _Pen:
    """Writes wrapped text in a font that has its letters."""

    def __init__(self, image: Image.Image) -> None:
        self._pen = ImageDraw.Draw(image)

    def write(
        self, at: tuple[int, int], text: str, size: int, width: int, lines: int, ink: Colour = INK
    ) -> int:
        """Write lines from the left; gives the y coordinate below them."""
        x, y = at
        font = font_for(text, size)
        for line in wrap(self._pen, text, font, width, lines):
            self._pen.text((x, y), line, fill=ink, font=font)
            y += line_height(font)
        return y

    def write_centred(
        self, at: tuple[int, int], text: str, size: int, width: int, ink: Colour
    ) -> int:
        """Write up to three lines centred in `width`; gives the y coordinate below them."""
        x, y = at
        font = font_for(text, size)
        for line in wrap(self._pen, text, font, width, MOST_HEADER_LINES):
            left = x + (width - self._pen.textlength(line, font=font)) / 2
            self._pen.text((left, y), line, fill=ink, font=font)
            y += line_height(font)
        return y


def _lay_out(sheet: Sheet) -> _Layout:
    rows, columns = len(sheet.rows), len(sheet.columns)
    shown = shown_size(*sheet.picture_size, cells=2 * rows * columns)
    column = max(shown[0], LEAST_COLUMN)
    header = max(_header_height(title, note, column) for title, note in sheet.columns)
    top = MARGIN + line_height(font_for("", TITLE_SIZE)) + GAP + header + GAP
    small = line_height(font_for("", SMALL_SIZE))
    row = 2 * shown[1] + small + 2 * GAP
    width = 2 * MARGIN + LABEL_WIDTH + columns * (column + GAP)
    footer = GAP + (MOST_FOOTER_LINES + 1) * small
    return _Layout(shown, column, top, row, width, top + rows * row + footer + MARGIN)


def _header_height(title: str, note: str, width: int) -> int:
    pen = _Pen(Image.new("RGB", (1, 1)))
    below = pen.write_centred((0, 0), title, TEXT_SIZE, width, INK)
    return pen.write_centred((0, below), note, SMALL_SIZE, width, FAINT)


def _draw_headers(pen: _Pen, sheet: Sheet, layout: _Layout) -> None:
    for column, (title, note) in enumerate(sheet.columns):
        height = _header_height(title, note, layout.column)
        left = MARGIN + LABEL_WIDTH + GAP + column * (layout.column + GAP)
        at = (left, layout.top - GAP // 2 - height)
        below = pen.write_centred(at, title, TEXT_SIZE, layout.column, INK)
        pen.write_centred((left, below), note, SMALL_SIZE, layout.column, FAINT)


def _draw_label(pen: _Pen, layout: _Layout, row: int, label: tuple[str, str]) -> None:
    prompt, note = label
    at = (MARGIN, layout.corner(row, 0)[1])
    lines = max(1, min(MOST_PROMPT_LINES, layout.shown[1] // line_height(font_for("", TEXT_SIZE))))
    below = pen.write(at, prompt, TEXT_SIZE, LABEL_WIDTH, max(1, lines - 1))
    pen.write((MARGIN, below + 2), note, SMALL_SIZE, LABEL_WIDTH, 1, FAINT)
    words = f"difference to NONE, and pixels that changed by more than {THRESHOLD} of 255"
    at = (MARGIN, layout.corner(row, 0, below=1)[1])
    pen.write(at, words, SMALL_SIZE, LABEL_WIDTH, 3, FAINT)


def _draw_footer(image: Image.Image, pen: _Pen, sheet: Sheet, layout: _Layout) -> int:
    """Draw the scale of the heat maps and the facts; gives the y coordinate below them."""
    y = layout.top + len(sheet.rows) * layout.row
    scale = np.linspace(0, FULL_HEAT, 160)[None].repeat(10, axis=0)
    below = pen.write((MARGIN, y), "difference 0", SMALL_SIZE, 100, 1, FAINT)
    image.paste(heat_map(scale), (MARGIN + 100, y + 4))
    pen.write((MARGIN + 268, y), f"{FULL_HEAT} and more of 255", SMALL_SIZE, 300, 1, FAINT)
    width = layout.width - 2 * MARGIN
    return pen.write((MARGIN, below + 2), sheet.footer, SMALL_SIZE, width, MOST_FOOTER_LINES, INK)


def _paste(
    image: Image.Image,
    cell: Image.Image | None,
    corner: tuple[int, int],
    size: tuple[int, int],
    resampling: Image.Resampling,
) -> None:
    """Put a picture in its place at the shown size; gray where it was not drawn."""
    if cell is None:
        image.paste(EMPTY, (*corner, corner[0] + size[0], corner[1] + size[1]))
    else:
        image.paste(cell if cell.size == size else cell.resize(size, resampling), corner)
