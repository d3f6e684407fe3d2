"""The picture of a grid: cells, heat maps, labels and footer, laid out and drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .difference import FULL_HEAT, Difference, heat_map
from .fonts import font_for, line_height, wrap

PAPER, INK, FAINT, EMPTY = (255, 255, 255), (20, 20, 24), (110, 110, 118), (222, 222, 226)
MARGIN, GAP, LABEL_WIDTH, LEAST_COLUMN = 20, 10, 210, 120
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 24, 18, 14
MOST_HEADER_LINES, MOST_PROMPT_LINES, MOST_FOOTER_LINES = 3, 8, 6
SMALL_PICTURE, LARGE_PICTURE, MOST_PIXELS = 160, 512, 60_000_000

Cells = Sequence[Sequence[Image.Image | None]]
Differences = Sequence[Sequence[Difference | None]]
Colour = tuple[int, int, int]
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The words of a grid. columns, rows, pages: (title, note) each.

    compares: what the heat maps below the pictures show; without it there are none. scale: what
    the two ends of their colours mean.
    """

    title: str
    columns: Labels
    rows: Labels
    footer: str
    picture_size: tuple[int, int]
    pages: Labels = (("", ""),)
    compares: str = ""
    scale: tuple[str, str] = ("", "")


class _Layout(NamedTuple):
    """Pixels: a shown picture's size, a column's width, and where pages, columns and rows begin.

    heading: of a page's title; page: of a whole page.
    """

    shown: tuple[int, int]
    column: int
    top: int
    row: int
    heading: int
    page: int
    width: int

    def corner(self, page: int, row: int, column: int, below: int = 0) -> tuple[int, int]:
        """Give the upper left corner of a picture, or with below = 1 of its heat map."""
        left = MARGIN + LABEL_WIDTH + GAP + column * (self.column + GAP)
        left += (self.column - self.shown[0]) // 2
        top = self.top + page * self.page + row * self.row
        return left, top + below * (self.shown[1] + 4)


def draw_sheet(sheet: Sheet, pages: Sequence[tuple[Cells, Differences]]) -> Image.Image:
    """Draw pictures, page below page, under each its heat map and how many pixels changed."""
    layout = _lay_out(sheet)
    footer = (MOST_FOOTER_LINES + 1) * line_height(font_for("", SMALL_SIZE))
    end = layout.top + (len(pages) - 1) * layout.page + len(sheet.rows) * layout.row
    height = end + footer + 2 * MARGIN
    image = Image.new("RGB", (layout.width, height), PAPER)
    pen = _Pen(image)
    pen.write((MARGIN, MARGIN), sheet.title, TITLE_SIZE, layout.width - 2 * MARGIN, 1)
    for page, (cells, differences) in enumerate(pages):
        _draw_headers(pen, sheet, layout, page)
        for row in range(len(sheet.rows)):
            _draw_label(pen, sheet, layout, page, row)
            for column, cell in enumerate(cells[row]):
                corner = layout.corner(page, row, column)
                _paste(image, cell, corner, layout.shown, Image.Resampling.BICUBIC)
                if sheet.compares:
                    corner = layout.corner(page, row, column, below=1)
                    _draw_difference(image, pen, differences[row][column], corner, layout.shown)
    end = _draw_footer(image, pen, sheet, end, layout.width)
    return image.crop((0, 0, layout.width, end + MARGIN))


def _draw_difference(
    image: Image.Image,
    pen: _Pen,
    found: Difference | None,
    corner: tuple[int, int],
    shown: tuple[int, int],
) -> None:
    _paste(image, found.heat if found else None, corner, shown, Image.Resampling.NEAREST)
    if found:
        place = (corner[0], corner[1] + shown[1] + 2)
        pen.write_centred(place, f"{found.percent:.1f} %", SMALL_SIZE, shown[0], INK)


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
    pictures = (2 if sheet.compares else 1) * rows * columns * len(sheet.pages)
    shown = shown_size(*sheet.picture_size, cells=pictures)
    column = max(shown[0], LEAST_COLUMN)
    header = max(_header_height(title, note, column) for title, note in sheet.columns)
    small, text = (line_height(font_for("", size)) for size in (SMALL_SIZE, TEXT_SIZE))
    heading = text + GAP if any(title for title, _ in sheet.pages) else 0
    top = MARGIN + line_height(font_for("", TITLE_SIZE)) + GAP + heading + header + GAP
    row = 2 * shown[1] + small + 2 * GAP if sheet.compares else shown[1] + GAP
    page = rows * row + (heading + header + 2 * GAP if len(sheet.pages) > 1 else 0)
    width = 2 * MARGIN + LABEL_WIDTH + columns * (column + GAP)
    return _Layout(shown, column, top, row, heading, page, width)


def _header_height(title: str, note: str, width: int) -> int:
    pen = _Pen(Image.new("RGB", (1, 1)))
    below = pen.write_centred((0, 0), title, TEXT_SIZE, width, INK)
    return pen.write_centred((0, below), note, SMALL_SIZE, width, FAINT)


def _draw_headers(pen: _Pen, sheet: Sheet, layout: _Layout, page: int) -> None:
    top = layout.top + page * layout.page - GAP // 2
    tallest = max(_header_height(title, note, layout.column) for title, note in sheet.columns)
    if layout.heading:
        title, note = sheet.pages[page]
        at = (MARGIN, top - tallest - layout.heading)
        words = f"{note}: {title}" if note else title
        pen.write(at, words, TEXT_SIZE, layout.width - 2 * MARGIN, 1)
    for column, (title, note) in enumerate(sheet.columns):
        height = _header_height(title, note, layout.column)
        left = MARGIN + LABEL_WIDTH + GAP + column * (layout.column + GAP)
        at = (left, top - height)
        below = pen.write_centred(at, title, TEXT_SIZE, layout.column, INK)
        pen.write_centred((left, below), note, SMALL_SIZE, layout.column, FAINT)


def _draw_label(pen: _Pen, sheet: Sheet, layout: _Layout, page: int, row: int) -> None:
    title, note = sheet.rows[row]
    at = (MARGIN, layout.corner(page, row, 0)[1])
    lines = max(1, min(MOST_PROMPT_LINES, layout.shown[1] // line_height(font_for("", TEXT_SIZE))))
    below = pen.write(at, title, TEXT_SIZE, LABEL_WIDTH, max(1, lines - 1))
    pen.write((MARGIN, below + 2), note, SMALL_SIZE, LABEL_WIDTH, 1, FAINT)
    if sheet.compares:
        at = (MARGIN, layout.corner(page, row, 0, below=1)[1])
        pen.write(at, sheet.compares, SMALL_SIZE, LABEL_WIDTH, 4, FAINT)


def _draw_footer(image: Image.Image, pen: _Pen, sheet: Sheet, top: int, width: int) -> int:
    """Draw the scale of the heat maps and the facts; gives the y coordinate below them."""
    if sheet.compares:
        scale = np.linspace(0, FULL_HEAT, 160)[None].repeat(10, axis=0)
        below = pen.write((MARGIN, top), sheet.scale[0], SMALL_SIZE, 100, 1, FAINT)
        image.paste(heat_map(scale), (MARGIN + 100, top + 4))
        pen.write((MARGIN + 268, top), sheet.scale[1], SMALL_SIZE, 300, 1, FAINT)
        top = below + 2
    return pen.write(
        (MARGIN, top), sheet.footer, SMALL_SIZE, width - 2 * MARGIN, MOST_FOOTER_LINES, INK
    )


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
