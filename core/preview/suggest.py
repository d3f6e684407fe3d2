"""Block weights that keep one part of what a network does and give up another: searched, proved.

"95 % of the style with 40 % of the face": of the change from the base model's picture to the whole
network's, at least so much is kept outside the part that matters (a mask's, a detector's), and no
more than so much inside. What the search finds is then drawn with seeds that were not searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, product

from ..adapters.block_weights import BlockWeights
from ..adapters.blocks import block_order
from ..adapters.live import LiveNetwork
from ..config.fields import Text
from ..diffusion.seeds import SEEDS
from ..errors import ConfigError
from ..events import OnEvent, StopFlag, ignore, never
from ..models.base_model import BaseModel
from .cells import CellPainter, Hand
from .grid import Grid, no_other_network, render_grid
from .legend import say
from .part import Part
from .sampling import DrawSettings, Prompt
from .search import Kept, Region, Search
from .table import Cell, Label, Language, Table

TOLERANCE = 0.05
"""How far a measured share may be from a promise that is called held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestionRequest:
    """What is to be kept, and on which pictures it is searched and proved.

    inside: of the change inside the part at most; outside: of that outside of it at least. seeds:
    of the pictures of the search. check_seeds: of the proof; () is as many after the last seed,
    which are counted on from 0 where they end.
    """

    prompts: tuple[Prompt, ...]
    inside: float = 0.4
    outside: float = 0.95
    seeds: tuple[int, ...] = (1, 2)
    check_seeds: tuple[int, ...] = ()
    settings: DrawSettings = field(default_factory=DrawSettings)
    network_name: str = ""
    language: Language = "en"

    def __post_init__(self) -> None:
        if not self.prompts or not self.seeds:
            raise ConfigError("a suggestion needs at least one prompt and one seed to draw with")
        for name in ("inside", "outside"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is {share}; it must be a share from 0 to 1")
        for seed in (*self.seeds, *self.check_seeds):
            if not 0 <= seed < SEEDS:
                raise ConfigError(f"the seed {seed} must be a whole number from 0 to {SEEDS - 1}")
        if set(self.seeds) & set(self.check_seeds):
            raise ConfigError("check_seeds holds seeds of the search; a proof needs other ones")

    @property
    def proof(self) -> tuple[int, ...]:
        """The seeds that prove what was found."""
        after = (seed % SEEDS for seed in count(max(self.seeds) + 1))
        others = (seed for seed in after if seed not in self.seeds)
        return self.check_seeds or tuple(islice(others, len(self.seeds)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Found block weights, a vector of the family; blocks that the network has not are 0.

    asked: what was to be kept. promised: what the search arrived at, on its own pictures.
    measured: with other seeds; None where the part is in none of their pictures. blocks: what
    share of the change each block brings. grid: the proof's pictures: the base's, the whole
    network's, those of the suggestion.
    """

    weights: BlockWeights
    asked: Kept
    promised: Kept
    measured: Kept | None
    blocks: Mapping[str, Kept]
    grid: Grid

    @property
    def held(self) -> bool:
        """Whether the proof shows what was promised, or better."""
        return (
            self.measured is not None
            and self.measured.inside <= self.promised.inside + TOLERANCE
            and self.measured.outside >= self.promised.outside - TOLERANCE
        )

    @property
    def reached(self) -> bool:
        """Whether the proof shows what was asked for."""
        return (
            self.measured is not None
            and self.measured.inside <= self.asked.inside + TOLERANCE
            and self.measured.outside >= self.asked.outside - TOLERANCE
        )

    def text(self, language: Language = "en") -> str:
        """Say what was asked for, promised and measured."""
        lines = [
            getattr(_WORDS[name], language).format(
                inside=f"{100 * kept.inside:.0f}", outside=f"{100 * kept.outside:.0f}"
            )
            for name, kept in (
                ("asked", self.asked),
                ("promised", self.promised),
                ("measured", self.measured),
            )
            if kept is not None
        ]
        end = "reached" if self.reached else "held" if self.held else "missed"
        end = "unmeasured" if self.measured is None else end
        return "\n".join((self.weights.text(), *lines, getattr(_WORDS[end], language)))


_WORDS = {
    "asked": Text(
        "asked for: at least {outside} % of the change outside the part, at most {inside} % inside",
        "要求：部位之外至少保留变化的 {outside} %，部位之内至多 {inside} %",
    ),
    "promised": Text(
        "promised:  {outside} % outside, {inside} % inside (the pictures of the search)",
        "承诺：部位之外 {outside} %，之内 {inside} %（搜索所用的图片）",
    ),
    "measured": Text(
        "measured:  {outside} % outside, {inside} % inside (other seeds)",
        "实测：部位之外 {outside} %，之内 {inside} %（其他种子）",
    ),
    "reached": Text("What was asked for is reached.", "已达到要求。"),
    "held": Text(
        "No weights of whole blocks reach what was asked for; these come nearest, and keep what "
        "they promised.",
        "没有任何整层权重能达到要求；这是最接近的结果，并且兑现了承诺。",
    ),
    "unmeasured": Text(
        "Not proved: the part is in none of the pictures with other seeds. Name other check seeds.",
        "未能验证：使用其他种子的图片中都没有该部位。请指定其他验证种子。",
    ),
    "missed": Text(
        "Other seeds show less than was promised: search with more seeds or prompts.",
        "其他种子未达到承诺：请用更多种子或提示词搜索。",
    ),
}


def suggest_weights(
    base: BaseModel,
    network: LiveNetwork,
    request: SuggestionRequest,
    part: Part,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Suggestion | None:
    """Search block weights and prove them; None where it was stopped.

    ConfigError where nothing says what the part is, for a mask of no use, and where the part is in
    none of the whole network's pictures, before the blocks are drawn.
    """
    if not part.is_given:
        raise ConfigError(
            "a suggestion needs to know the part that matters: give a mask, or use a host with a "
            "face detector"
        )
    part.check(request.settings.size(base))
    hand = Hand(
        base=base,
        network=network,
        settings=request.settings,
        open_network=no_other_network,
        on_event=on_event,
        stop=stop,
    )
    search = Search(CellPainter(hand), list(product(request.prompts, request.seeds)), part)
    if not search.start(network.blocks()):
        return None
    found = search.run(request.inside)
    if found is None:
        return None
    weights, promised = found
    weights = weights.along(block_order(base.family.key, network.blocks()))
    grid = render_grid(base, network, _proof(request, network.blocks(), weights), on_event, stop)
    if grid.stopped:
        return None
    ends = [(row[0], row[1]) for row in grid.cells]
    region = Region(ends, part)
    return Suggestion(
        weights=weights,
        asked=Kept(request.inside, request.outside),
        promised=promised,
        measured=region.kept([row[2] for row in grid.cells]) if region.is_found else None,
        blocks=search.shares,
        grid=grid,
    )


def _proof(request: SuggestionRequest, blocks: Sequence[str], weights: BlockWeights) -> Table:
    """Make the table of the proof: the base's picture, the whole network's, the suggestion's."""
    columns = [
        BlockWeights(tuple((block, ratio) for block in blocks), label)
        for label, ratio in (("NONE", 0.0), ("ALL", 1.0))
    ]
    rows = list(product(request.prompts, request.proof))
    return Table(
        columns=tuple(Label(own.label, "") for own in (*columns, weights)),
        rows=tuple(
            Label(prompt.text or "-", say("seed", request.language, seed=seed))
            for prompt, seed in rows
        ),
        pages=(Label("", ""),),
        cells=(
            tuple(
                tuple(Cell(prompt=prompt, seed=seed, weights=own) for own in (*columns, weights))
                for prompt, seed in rows
            ),
        ),
        settings=request.settings,
        network_name=request.network_name,
        compare="first",
        language=request.language,
    )
