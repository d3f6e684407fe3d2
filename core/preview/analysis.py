"""The effective-block analysis: one picture for each block, with that block at another ratio.

As the lora-block-weight extension's analyzer does it: the picture with all blocks at one ratio,
and beside it, for each block, the picture with that block alone at another; how far the two are
apart is what the block does. With a mask or a detector also inside and outside of the part that
matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..adapters.block_weights import BlockWeights
from ..adapters.live import LiveNetwork
from ..errors import ConfigError
from ..events import OnEvent, StopFlag, ignore, never
from ..models.base_model import BaseModel
from .difference import THRESHOLD, change_levels
from .grid import Grid, render_grid
from .legend import say
from .part import Part
from .sampling import DrawSettings, Prompt
from .table import Cell, Label, Language, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRequest:
    """Which pictures are compared: every prompt with every seed.

    seeds: () is the settings' own. value: of the block that is looked at. others: of all others,
    and of all of them in the picture that is compared with.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...] = ()
    value: float = 0.5
    others: float = 1.0
    settings: DrawSettings = field(default_factory=DrawSettings)
    network_name: str = ""
    language: Language = "en"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("the analysis has no prompts; give at least one")
        if self.value == self.others:
            raise ConfigError(
                f"the analysis has {self.value:g} for the block and for all others; give another "
                "value for the block, as 0.5 beside 1"
            )

    def rows(self) -> tuple[tuple[Prompt, int], ...]:
        """Every prompt with every seed."""
        seeds = self.seeds or (self.settings.seed,)
        return tuple((prompt, seed) for prompt in self.prompts for seed in seeds)

    def table(self, blocks: Sequence[str]) -> Table:
        """Work out the cells: first all blocks at `others`, then each of them at `value`."""
        columns = [
            _weights(blocks, self.others),
            *(_weights(blocks, self.others, block, self.value) for block in blocks),
        ]
        return Table(
            columns=tuple(Label(weights.label, "") for weights in columns),
            rows=tuple(
                Label(prompt.text or "-", say("seed", self.language, seed=seed))
                for prompt, seed in self.rows()
            ),
            pages=(Label("", ""),),
            cells=(
                tuple(
                    tuple(Cell(prompt=prompt, seed=seed, weights=weights) for weights in columns)
                    for prompt, seed in self.rows()
                ),
            ),
            settings=self.settings,
            network_name=self.network_name,
            compare="first",
            language=self.language,
        )


class Change(NamedTuple):
    """How far pictures are apart: changed pixels in percent, and the mean difference of 255."""

    percent: float
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEffect:
    """What one block does to the pictures; inside and outside of the part, where there is one."""

    block: str
    whole: Change
    inside: Change | None = None
    outside: Change | None = None

    @property
    def focus(self) -> float | None:
        """How much more it changes a pixel inside than one outside: 1 is alike, 0 only outside."""
        if self.inside is None or self.outside is None:
            return None
        return self.inside.mean / self.outside.mean if self.outside.mean else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """An effective-block analysis. blocks: in the order of a vector, those that were drawn.

    grid: the pictures, to be written or shown as any grid. pictures: how many were compared with;
    with_part: in how many of them the part was found.
    """

    blocks: tuple[BlockEffect, ...]
    grid: Grid
    pictures: int
    with_part: int
    request: AnalysisRequest

    @property
    def stopped(self) -> bool:
        """Whether a stop came before all of it was drawn."""
        return self.grid.stopped

    def ranked(self) -> tuple[BlockEffect, ...]:
        """The blocks by how much they change, the most first."""
        return tuple(sorted(self.blocks, key=lambda found: -found.whole.mean))


def analyze_blocks(
    base: BaseModel,
    network: LiveNetwork,
    request: AnalysisRequest,
    part: Part | None = None,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Analysis:
    """Draw and compare; stopping keeps the blocks that are drawn. Events as of a grid.

    ConfigError for a mask of no use, before anything is drawn.
    """
    part = part or Part()
    part.check(request.settings.size(base))
    blocks = network.blocks()
    grid = render_grid(base, network, request.table(blocks), on_event, stop)
    rows = [row for row in grid.cells if row[0] is not None]
    parts = [part.of(row[0]) for row in rows if row[0] is not None]
    effects = []
    for column, block in enumerate(blocks, 1):
        pairs = [(row[0], row[column]) for row in rows]
        drawn = [
            (change_levels(reference, picture), inside)
            for (reference, picture), inside in zip(pairs, parts, strict=True)
            if reference is not None and picture is not None
        ]
        if drawn:
            effects.append(_effect(block, drawn))
    return Analysis(
        blocks=tuple(effects),
        grid=grid,
        pictures=len(rows),
        with_part=sum(inside is not None for inside in parts),
        request=request,
    )


_Levels = tuple[np.ndarray, np.ndarray | None]


def _effect(block: str, drawn: Sequence[_Levels]) -> BlockEffect:
    parted = [(levels, inside) for levels, inside in drawn if inside is not None]
    return BlockEffect(
        block=block,
        whole=_change([levels.ravel() for levels, _ in drawn]),
        inside=_change([levels[inside] for levels, inside in parted]) if parted else None,
        outside=_change([levels[~inside] for levels, inside in parted]) if parted else None,
    )


def _change(levels: Sequence[np.ndarray]) -> Change:
    """Average over all pixels of all pictures."""
    pixels = np.concatenate(levels)
    return Change(100 * float((pixels > THRESHOLD).mean()), float(pixels.mean()))


def _weights(
    blocks: Sequence[str], others: float, block: str = "", value: float = 0.0
) -> BlockWeights:
    """Give all blocks one ratio but one of them another, labelled with what is different."""
    ratios = {name: value if name == block else others for name in blocks}
    label = f"{block}={value:g}" if block else f"ALL={others:g}"
    return BlockWeights(tuple(ratios.items()), label)
