"""Grids: block weights x prompts, or any three axes, and how far each picture is from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..adapters.block_weights import BlockWeights
from ..adapters.live import LiveNetwork
from ..errors import ConfigError
from ..events import OnEvent, StopFlag, ignore, never
from ..log import logger
from ..models.base_model import BaseModel
from .axes import XYZRequest
from .cells import CellPainter, Hand, Key, OpenNetwork, without_network
from .difference import Difference, difference
from .legend import say, write_legend
from .metadata import encode_png
from .record import grid_metadata
from .sampling import DrawSettings, Prompt
from .sheet import Sheet, draw_sheet
from .table import Cell, Label, Language, Reference, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """A column for each preset, a row for each prompt: the grid that a training's preview is.

    presets: names, vectors ("NAME:1,0,..."), ranges of blocks, or block weights. Row i has the
    seed `settings.seed` + i. network_name: for the title and the file's metadata.
    """

    prompts: tuple[Prompt, ...]
    presets: tuple[str | BlockWeights, ...]
    settings: DrawSettings = field(default_factory=DrawSettings)
    network_name: str = ""
    language: Language = "en"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("preview.prompts is empty; name at least one to draw a grid")
        if not self.presets:
            raise ConfigError('preview.presets is empty; name at least one, such as "ALL"')

    def table(self, family: str) -> Table:
        """Work out every cell, for a family of models. ConfigError names a wrong preset."""
        seed = self.settings.seed
        columns = [BlockWeights.parse(given, family, seed=seed) for given in self.presets]
        rows = [(prompt, seed + row) for row, prompt in enumerate(self.prompts)]
        cells = tuple(
            tuple(Cell(prompt=prompt, seed=own, weights=weights) for weights in columns)
            for prompt, own in rows
        )
        return Table(
            columns=tuple(Label(weights.label, "") for weights in columns),
            rows=tuple(
                Label(prompt.text or "-", say("seed", self.language, seed=own))
                for prompt, own in rows
            ),
            pages=(Label("", ""),),
            cells=(cells,),
            settings=self.settings,
            network_name=self.network_name,
            language=self.language,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The cells of one page by row and column, None where a stop came first.

    differences: to what the table compares with; None too where it does not compare.
    """

    cells: tuple[tuple[Image.Image | None, ...], ...]
    differences: tuple[tuple[Difference | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A drawn grid. table: what was asked for. legend: its words. image: the sheet.

    metadata: texts for the sheet's PNG file.
    """

    table: Table
    legend: Sheet
    pages: tuple[Page, ...]
    image: Image.Image
    metadata: dict[str, str]

    @property
    def cells(self) -> tuple[tuple[Image.Image | None, ...], ...]:
        """The first page's pictures."""
        return self.pages[0].cells

    @property
    def differences(self) -> tuple[tuple[Difference | None, ...], ...]:
        """The first page's differences."""
        return self.pages[0].differences

    @property
    def stopped(self) -> bool:
        """Whether a stop came before all of it was drawn."""
        return any(cell is None for page in self.pages for line in page.cells for cell in line)

    def png(self) -> bytes:
        """Encode the sheet as PNG with its metadata."""
        return encode_png(self.image, self.metadata)


def no_other_network(name: str) -> LiveNetwork:
    """Refuse to open a network; for grids of the one in memory."""
    raise ConfigError(f"the grid names the network {name}, and only the one in memory is given")


def render_grid(
    base: BaseModel,
    network: LiveNetwork,
    request: GridRequest | XYZRequest | Table,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
    open_network: OpenNetwork = no_other_network,
) -> Grid:
    """Draw a grid with the live network; its strengths, and where it was attached, are put back.

    Block weights are numbers on the live layers: nothing is saved, loaded or merged. Cells that
    mean the same for a network's layers are drawn once; CellDrawn is sent for each picture as soon
    as it is there. A state's pictures are drawn in the same batches as `draw` has, so NONE has the
    bits that `draw` gives for the base model alone, and with a batch size of 1 a picture the same
    ones in any grid. Stopping keeps what is drawn.
    """
    table = request if isinstance(request, Table) else request.table(base.family.key)
    hand = Hand(
        base=base,
        network=network,
        settings=table.settings,
        open_network=open_network,
        on_event=on_event,
        stop=stop,
    )
    painter = CellPainter(hand)
    placed = [(cell, place) for place, cell in table.places()]
    for weights in {cell.weights: None for cell, _ in placed}:
        _warn(weights, network.blocks())
    references = [(without_network(cell), None) for cell, _ in placed]
    pictures = painter.paint([*(references if table.compare == "base" else []), *placed])
    pages = tuple(_page(painter, pictures, rows, table.compare) for rows in table.cells)
    percents = [
        [[found and round(found.percent, 3) for found in line] for line in page.differences]
        for page in pages
    ]
    rows = (row for page in table.cells for row in page)
    columns = [tuple(map(painter.key, cells)) for cells in zip(*rows, strict=True)]
    legend = write_legend(base, table, columns)
    return Grid(
        table=table,
        legend=legend,
        pages=pages,
        image=draw_sheet(legend, [(page.cells, page.differences) for page in pages]),
        metadata=grid_metadata(base, table, painter.networks, percents),
    )


def _page(
    painter: CellPainter,
    pictures: Mapping[Key, Image.Image],
    rows: Sequence[Sequence[Cell]],
    compare: Reference,
) -> Page:
    def found(cell: Cell, row: Sequence[Cell]) -> Difference | None:
        references = {"base": without_network(cell), "first": row[0]}
        if compare == "":
            return None
        own = pictures.get(painter.key(cell))
        reference = pictures.get(painter.key(references[compare]))
        return difference(reference, own) if own and reference else None

    return Page(
        cells=tuple(tuple(pictures.get(painter.key(cell)) for cell in row) for row in rows),
        differences=tuple(tuple(found(cell, row) for cell in row) for row in rows),
    )


def _warn(weights: BlockWeights, blocks: Sequence[str]) -> None:
    finding = weights.finding(blocks)
    if finding is not None:
        logger.warning("preview: %s", finding.text)
