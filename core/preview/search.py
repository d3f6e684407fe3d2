"""The search behind suggested block weights: what each block brings, and how far to turn it down.

What counts is the change from the base model's picture to the whole network's, inside a part of it
and outside. How much of it a block brings is measured with that block alone and with that block
missing. Blocks are turned down in the order in which they cost the least outside for what they take
inside; how far down this goes is found by drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..adapters.block_weights import BlockWeights
from ..errors import ConfigError
from .cells import CellPainter
from .part import Part
from .sampling import Prompt
from .table import Cell

_ROUNDS = 6
_GRAIN = 20  # ratios are multiples of 1 / 20


class Kept(NamedTuple):
    """How much of the network's change is left: 0 is the base's picture, 1 the whole network's."""

    inside: float
    outside: float


Picture = Image.Image | None


class _Row(NamedTuple):
    """One picture: its place in the row, the base's pixels, the whole change, the part."""

    place: int
    base: np.ndarray
    change: np.ndarray
    part: np.ndarray


class Region:
    """Where changes are measured: the pictures in which the part is found."""

    def __init__(self, ends: Sequence[tuple[Picture, Picture]], part: Part) -> None:
        """Take the base's and the whole network's picture of each prompt and seed."""
        self._rows: list[_Row] = []
        for index, (none, whole) in enumerate(ends):
            inside = part.of(whole) if none is not None and whole is not None else None
            if inside is not None:
                base = _pixels(none)
                self._rows.append(_Row(index, base, _pixels(whole) - base, inside))

    @property
    def is_found(self) -> bool:
        """Whether the part is in any of the pictures."""
        return bool(self._rows)

    def kept(self, pictures: Sequence[Picture]) -> Kept:
        """Give how far pictures have gone from the base's to the whole network's: 0 to 1."""
        return self._along([_pixels(pictures[row.place]) - row.base for row in self._rows])

    def between(self, first: Sequence[Picture], second: Sequence[Picture]) -> Kept:
        """Give how much of the whole change lies between two rows of pictures."""
        return self._along(
            [_pixels(second[row.place]) - _pixels(first[row.place]) for row in self._rows]
        )

    def _along(self, changes: Sequence[np.ndarray]) -> Kept:
        """Project changes on the whole one, inside and outside, over all pictures together."""
        sums = np.zeros((2, 2))
        for row, change in zip(self._rows, changes, strict=True):
            for place, region in enumerate((row.part, ~row.part)):
                whole = row.change[region]
                sums[place] += (whole * change[region]).sum(), (whole**2).sum()
        return Kept(*(float(along / whole) if whole else 1.0 for along, whole in sums))


class Search:
    """Draws what the search needs and finds how far the blocks are turned down."""

    def __init__(
        self, painter: CellPainter, rows: Sequence[tuple[Prompt, int]], part: Part
    ) -> None:
        self._painter, self._rows, self._part = painter, rows, part
        self.shares: dict[str, Kept] = {}
        self._region: Region

    def start(self, blocks: Sequence[str]) -> bool:
        """Draw each block alone and missing, and measure its share; whether all was drawn.

        ConfigError where the part is in none of the whole network's pictures, which come first.
        """
        whole, none = dict.fromkeys(blocks, 1.0), dict.fromkeys(blocks, 0.0)
        alone = {block: none | {block: 1.0} for block in blocks}
        without = {block: whole | {block: 0.0} for block in blocks}
        ends = self._draw([none, whole])
        if ends is None:
            return False
        first, last = ends
        self._region = Region(list(zip(first, last, strict=True)), self._part)
        if not self._region.is_found:
            raise ConfigError(
                "the part that matters is in none of the pictures of the whole network; use "
                "prompts that show it, or give a mask"
            )
        others = self._draw([*alone.values(), *without.values()])
        if others is None:
            return False
        for index, block in enumerate(blocks):
            added = self._region.between(first, others[index])
            lost = self._region.between(others[index + len(blocks)], last)
            self.shares[block] = Kept(
                *((one + two) / 2 for one, two in zip(added, lost, strict=True))
            )
        return True

    def run(self, inside: float) -> tuple[BlockWeights, Kept] | None:
        """Find the point of the path at which no more than `inside` of the change inside is left.

        The path turns one block after the other down to 0. Where it crosses what was asked for is
        found by halving, with a drawing at each point.
        """
        order = self._order()
        low, high = 0, len(order) * _GRAIN  # positions on the path: too much is kept, little enough
        best: tuple[BlockWeights, Kept] | None = None
        position = self._expected(order, inside)
        for _ in range(_ROUNDS):
            weights = self._weights(order, position)
            drawn = self._draw([dict(weights.ratios)])
            if drawn is None:
                return None
            kept = self._region.kept(drawn[0])
            enough = kept.inside <= inside
            low, high = (low, position) if enough else (position, high)
            if best is None or _nearer(kept, best[1], inside):
                best = weights, kept
            if high - low <= 1:
                break
            position = (low + high) // 2
        return best

    def _order(self) -> list[str]:
        """Blocks that bring change inside, those that bring the least outside for it first."""
        bringing = {block: kept for block, kept in self.shares.items() if kept.inside > 0}
        return sorted(bringing, key=lambda block: bringing[block].outside / bringing[block].inside)

    def _expected(self, order: Sequence[str], inside: float) -> int:
        """Give the position at which shares that simply add up would do."""
        surplus = sum(kept.inside for kept in self.shares.values()) - inside
        position = 0.0
        for block in order:
            taken = min(1.0, max(0.0, surplus / self.shares[block].inside))
            position += taken * _GRAIN
            surplus -= taken * self.shares[block].inside
        return max(1, min(round(position), len(order) * _GRAIN - 1))

    def _weights(self, order: Sequence[str], position: int) -> BlockWeights:
        ratios = dict.fromkeys(self.shares, 1.0)
        for index, block in enumerate(order):
            steps = min(max(position - index * _GRAIN, 0), _GRAIN)
            ratios[block] = round(1 - steps / _GRAIN, 2)
        return BlockWeights(tuple(ratios.items()), "suggested")

    def _draw(self, weights: Sequence[Mapping[str, float]]) -> list[list[Picture]] | None:
        """Draw every row with each of these ratios; None where it was stopped."""
        cells = [
            [
                Cell(prompt=prompt, seed=seed, weights=BlockWeights(tuple(ratios.items())))
                for prompt, seed in self._rows
            ]
            for ratios in weights
        ]
        pictures = self._painter.paint([(cell, None) for row in cells for cell in row])
        drawn = [[pictures.get(self._painter.key(cell)) for cell in row] for row in cells]
        return None if any(picture is None for row in drawn for picture in row) else drawn


def _nearer(kept: Kept, other: Kept, inside: float) -> bool:
    """Prefer what keeps little enough inside; among those, and else, what is nearer to it."""
    enough, other_enough = kept.inside <= inside, other.inside <= inside
    if enough != other_enough:
        return enough
    return kept.outside > other.outside if enough else kept.inside < other.inside


def _pixels(picture: Image.Image | None) -> np.ndarray:
    return np.asarray(picture, np.float32)
