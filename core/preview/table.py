"""What a grid is made of: a table of cells, each with all that its picture depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..adapters.block_weights import BlockWeights
from .sampling import DrawSettings, Prompt

Language = Literal["en", "zh"]

Reference = Literal["", "base", "first"]
"""What a cell's difference is measured from: nothing, the base model's picture, or its row's first.
"""

Place = tuple[int, int, int]
"""Where a cell is: page, row, column, counted from 0."""


class Label(NamedTuple):
    """The title of a column, row or page, and a note below it."""

    title: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All that one picture depends on beside the settings. network: "" is the one in memory."""

    prompt: Prompt
    seed: int
    weights: BlockWeights
    unet: float = 1.0
    text_encoder: float = 1.0
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The cells of a grid by page, row and column, with their titles.

    language: of what is written on the sheet.
    """

    columns: tuple[Label, ...]
    rows: tuple[Label, ...]
    pages: tuple[Label, ...]
    cells: tuple[tuple[tuple[Cell, ...], ...], ...]
    settings: DrawSettings
    network_name: str = ""
    compare: Reference = "base"
    language: Language = "en"

    def places(self) -> Iterator[tuple[Place, Cell]]:
        """Go through all cells, page by page and row by row."""
        for page, rows in enumerate(self.cells):
            for row, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    yield (page, row, column), cell
