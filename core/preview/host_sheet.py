"""A grid's sheet for pictures that a host has drawn."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from .difference import difference
from .legend import say
from .sheet import Sheet, draw_sheet


def comparison_sheet(
    *,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, str]],
    cells: Sequence[Sequence[Image.Image]],
    references: Sequence[Image.Image],
    footer: str,
) -> Image.Image:
    """Lay out pictures of one size by row and column, and below each how far it is from its row's
    reference.

    rows: a title and a note each.
    """
    differences = [
        [difference(reference, cell) for cell in line]
        for reference, line in zip(references, cells, strict=True)
    ]
    sheet = Sheet(
        title=title,
        columns=tuple((column, "") for column in columns),
        rows=tuple(rows),
        footer=footer,
        picture_size=references[0].size,
        compares=say("difference", "en"),
        scale=(say("scale", "en"), say("full", "en")),
    )
    return draw_sheet(sheet, [(cells, differences)])
