"""A grid's sheet for pictures that a host has drawn."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from .cells import without_network
from .difference import Difference, difference
from .legend import say
from .sheet import Sheet, draw_sheet
from .table import Cell, Table

PictureOf = Callable[[Cell], Image.Image]


def table_sheet(table: Table, picture_of: PictureOf, title: str, footer: str) -> Image.Image:
    """Lay out a table's pictures, all of one size, and below each how far it is from the base's.

    picture_of: gives a cell's picture; where the table compares, the base model's for
    `without_network(cell)` as well.
    """

    def compared(cell: Cell) -> Difference | None:
        if not table.compare:
            return None
        return difference(picture_of(without_network(cell)), picture_of(cell))

    language = table.language
    pages = [
        (
            [[picture_of(cell) for cell in row] for row in rows],
            [[compared(cell) for cell in row] for row in rows],
        )
        for rows in table.cells
    ]
    sheet = Sheet(
        title=title,
        columns=table.columns,
        rows=table.rows,
        pages=table.pages,
        footer=footer,
        picture_size=pages[0][0][0][0].size,
        compares=say("base", language) if table.compare else "",
        scale=(say("scale", language), say("full", language)),
    )
    return draw_sheet(sheet, pages)
