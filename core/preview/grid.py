"""The block-weight grid: presets across, prompts down, and how far each picture is from NONE."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain

from PIL import Image

from ..adapters.block_weights import BlockWeights
from ..adapters.blocks import BASE
from ..adapters.network import Network
from ..diffusion.samplers import SAMPLERS
from ..errors import ConfigError
from ..events import OnEvent, StopFlag, ignore, never
from ..log import logger
from ..models.base_model import BaseModel
from .difference import THRESHOLD, Difference, difference
from .metadata import encode_png, parameters_text
from .sampling import DrawSettings, Painter, Progress, Prompt, Stopped
from .sheet import Sheet, draw_sheet

NONE = "NONE"

Ratios = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """What a grid shows: a column for each preset, a row for each prompt.

    presets: names, vectors ("NAME:1,0,..."), ranges of blocks, or block weights. Row i has the
    seed `settings.seed` + i. network_name: for the title and the file's metadata.
    """

    prompts: tuple[Prompt, ...]
    presets: tuple[str | BlockWeights, ...]
    settings: DrawSettings = field(default_factory=DrawSettings)
    network_name: str = ""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ConfigError("preview.prompts is empty; name at least one to draw a grid")
        if not self.presets:
            raise ConfigError('preview.presets is empty; name at least one, such as "ALL"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A drawn grid. cells, differences: by row and column, None where a stop came first.

    differences: to the same row's NONE. image: the sheet. metadata: texts for its PNG file.
    """

    cells: tuple[tuple[Image.Image | None, ...], ...]
    differences: tuple[tuple[Difference | None, ...], ...]
    image: Image.Image
    metadata: dict[str, str]

    @property
    def stopped(self) -> bool:
        """Whether a stop came before all of it was drawn."""
        return any(cell is None for line in self.cells for cell in line)

    def png(self) -> bytes:
        """Encode the sheet as PNG with its metadata."""
        return encode_png(self.image, self.metadata)


def render_grid(
    base: BaseModel,
    network: Network,
    request: GridRequest,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Grid:
    """Draw a grid with the live network; its strengths, and where it was attached, are put back.

    Block weights are numbers on the live layers: nothing is saved, loaded or merged. Presets that
    mean the same for this network's blocks are drawn once. NONE is drawn too where it is not asked
    for, since differences are measured from it. A preset's pictures are drawn in the same batches
    as `draw` has, so NONE has the bits that `draw` gives for the base model alone, and a picture
    the same ones in a grid of other presets. Stopping keeps what is drawn.
    """
    family = base.family.key
    reference = BlockWeights.parse(NONE, family)
    columns = [
        BlockWeights.parse(given, family, seed=request.settings.seed) for given in request.presets
    ]
    blocks = network.blocks()
    distinct = {weights.effective(blocks): weights for weights in (reference, *columns)}
    total = len(distinct) * len(request.prompts) * request.settings.steps
    painter = Painter(base, request.settings, Progress(total, on_event).step, stop)
    with _attached(base, network):
        pictures = _draw_pictures(painter, network, request, distinct)
    none = pictures[reference.effective(blocks)]
    chosen = [pictures[weights.effective(blocks)] for weights in columns]
    rows = range(len(request.prompts))
    cells = tuple(tuple(column[row] for column in chosen) for row in rows)
    differences = tuple(tuple(_compare(none[row], cell) for cell in cells[row]) for row in rows)
    return Grid(
        cells=cells,
        differences=differences,
        image=draw_sheet(_words(base, request, columns, blocks), cells, differences),
        metadata=_metadata(base, request, columns, differences),
    )


def _draw_pictures(
    painter: Painter,
    network: Network,
    request: GridRequest,
    distinct: Mapping[Ratios, BlockWeights],
) -> dict[Ratios, list[Image.Image | None]]:
    """Draw a list of pictures, one for each prompt, for each of the distinct block weights."""
    blocks = network.blocks()
    pictures: dict[Ratios, list[Image.Image | None]] = {
        ratios: [None] * len(request.prompts) for ratios in distinct
    }
    for ratios, weights in distinct.items():
        _warn(weights, blocks)
        # What the text encoder says depends on BASE alone, so presets that agree there share it
        text_strength = weights.ratio(BASE) if BASE in blocks else 0.0
        try:
            with network.with_block_weights(weights):
                for row, picture in enumerate(painter.paint_all(request.prompts, text_strength)):
                    pictures[ratios][row] = picture
        except Stopped:
            logger.info("preview stopped; what was drawn is kept")
            break
    return pictures


@contextmanager
def _attached(base: BaseModel, network: Network) -> Iterator[None]:
    """Attach the network for the length of a with block, unless it is attached to this base."""
    own = {id(parameter) for parameter in network.named_parameters().values()}
    parameters = chain.from_iterable(part.parameters() for part in base.parts.values())
    if any(id(parameter) in own for parameter in parameters):
        yield
    else:
        with network.attached(base.parts):
            yield


def _warn(weights: BlockWeights, blocks: Sequence[str]) -> None:
    finding = weights.finding(blocks)
    if finding is not None:
        logger.warning("preview: %s", finding.text)


def _compare(none: Image.Image | None, cell: Image.Image | None) -> Difference | None:
    return None if none is None or cell is None else difference(none, cell)


def _words(
    base: BaseModel, request: GridRequest, columns: Sequence[BlockWeights], blocks: Sequence[str]
) -> Sheet:
    """Write the sheet's title, labels and footer; a column that equals an earlier one says so."""
    settings = request.settings
    sampler = SAMPLERS[settings.sampler]
    width, height = settings.size(base)
    first: dict[Ratios, str] = {}
    titles = []
    for weights in columns:
        earlier = first.setdefault(weights.effective(blocks), weights.label)
        titles.append((weights.label, "" if earlier == weights.label else f"same as {earlier}"))
    negatives = dict.fromkeys(prompt.negative for prompt in request.prompts if prompt.negative)
    facts = [
        f"seed {settings.seed} in the first row",
        f"{sampler.title} {sampler.schedule_title}".strip(),
        f"{settings.steps} steps",
        f"guidance {settings.guidance:g}",
        f"{width}x{height} pixels",
        f"base {base.name}",
        f"network {request.network_name}" if request.network_name else "",
        *(f"negative prompt: {text}" for text in negatives),
    ]
    name = request.network_name or "the network"
    return Sheet(
        title=f"Block weights of {name} on {base.name}",
        columns=tuple(titles),
        rows=tuple(
            (prompt.text or "(no prompt)", f"seed {settings.seed + row}")
            for row, prompt in enumerate(request.prompts)
        ),
        footer=" | ".join(fact for fact in facts if fact),
        picture_size=(width, height),
    )


def _metadata(
    base: BaseModel,
    request: GridRequest,
    columns: Sequence[BlockWeights],
    differences: Sequence[Sequence[Difference | None]],
) -> dict[str, str]:
    """Give the PNG's texts: the first row in the WebUI's words, and all of it as JSON."""
    settings = request.settings
    width, height = settings.size(base)
    facts = {
        "kind": "block-weight grid",
        "base": {"name": base.name, "identity": base.identity},
        "network": request.network_name,
        "prompts": [
            {"text": prompt.text, "negative": prompt.negative, "seed": settings.seed + row}
            for row, prompt in enumerate(request.prompts)
        ],
        "presets": [
            {"label": weights.label, "blocks": dict(weights.ratios)} for weights in columns
        ],
        "settings": asdict(settings) | {"width": width, "height": height},
        "changed_percent": [
            [None if found is None else round(found.percent, 3) for found in line]
            for line in differences
        ],
        "changed_threshold": THRESHOLD,
    }
    return {
        "parameters": parameters_text(request.prompts[0], settings, base, settings.seed),
        "lora_loop": json.dumps(facts, ensure_ascii=False),
    }
