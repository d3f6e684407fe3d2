"""What the blocks of a network do: measured, drawn, charted, and weights that follow from it.

measures = study.measure_blocks(base, network)                       no pictures
found = study.analyze_blocks(base, network, AnalysisRequest(...))    a picture for each block
answer = study.suggest_weights(base, network, SuggestionRequest(...), Part(mask=...))
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unicodedata import east_asian_width

import torch
from PIL import Image

from .adapters.live import LiveNetwork
from .config.dataset import DatasetConfig
from .data.buckets import bucket_rules, lay_out
from .data.cache import encode_latents
from .data.items import Dataset, ImageItem
from .events import OnEvent, Saved, StopFlag, ignore, never
from .files.images import write_png
from .models.base_model import BaseModel
from .preview import measure
from .preview.analysis import Analysis, AnalysisRequest, BlockEffect, Change, analyze_blocks
from .preview.bars import analysis_chart, measures_chart
from .preview.measure import BlockMeasure, Clean, MeasureRequest, Measures
from .preview.part import FindPart, Part
from .preview.search import Kept
from .preview.suggest import Suggestion, SuggestionRequest, suggest_weights
from .preview.table import Language
from .train.placement import on_device

__all__ = [
    "Analysis",
    "AnalysisRequest",
    "BlockEffect",
    "BlockMeasure",
    "Change",
    "FindPart",
    "Kept",
    "MeasureRequest",
    "Measures",
    "Part",
    "Suggestion",
    "SuggestionRequest",
    "analysis_chart",
    "analysis_text",
    "analyze_blocks",
    "blocks_path",
    "measure_blocks",
    "measures_chart",
    "measures_text",
    "suggest_weights",
    "write_chart",
]


def measure_blocks(
    base: BaseModel,
    network: LiveNetwork,
    request: MeasureRequest | None = None,
    dataset: Dataset | None = None,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Measures | None:
    """Measure every block without drawing a picture; None where it was stopped.

    dataset: its pictures, spread evenly over all of it and cropped to the base model's square, and
    their captions are measured on; without it random latents and the request's prompts are.
    """
    request, clean = request or MeasureRequest(), None
    if dataset is not None:
        clean = _encoded(base, dataset, request.samples, on_event, stop)
        if clean is None:
            return None
    return measure.measure_blocks(base, network, request, clean, on_event, stop)


def blocks_path(network: Path) -> Path:
    """Where the chart of a network file's blocks goes: beside it."""
    return network.with_name(f"{network.stem}-blocks.png")


def write_chart(
    chart: Image.Image, path: Path, on_event: OnEvent = ignore, *, overwrite: bool
) -> None:
    """Write a chart of an analysis as PNG."""
    write_png(path, chart, overwrite=overwrite)
    on_event(Saved(path=path, kind="plot"))


def measures_text(measures: Measures, language: Language = "en") -> str:
    """A table of what was measured, the block with the most effect first."""
    words = _MEASURED[language]
    lines = [_line(words)]
    for found in measures.ranked():
        shares = (found.share, found.alone, found.without, found.weight_share, found.relative)
        percents = [f"{100 * share:.1f} %" for share in shares[:-1]]
        percents.append(f"{100 * shares[-1]:.2f} %")
        lines.append(_line((found.block, str(found.layers), *percents)))
    return "\n".join(lines)


def analysis_text(analysis: Analysis, language: Language = "en") -> str:
    """A table of how many pixels each block changes, the block with the most effect first."""
    words = _ANALYZED[language]
    lines = [_line(words if analysis.with_part else words[:2])]
    for found in analysis.ranked():
        cells = [found.block, f"{found.whole.percent:.1f} %"]
        if found.inside is not None and found.outside is not None:
            cells += [f"{found.inside.percent:.1f} %", f"{found.outside.percent:.1f} %"]
            cells.append(f"{found.focus:.2f}")
        lines.append(_line(cells))
    return "\n".join(lines)


_MEASURED: dict[Language, tuple[str, ...]] = {
    "en": ("block", "layers", "share", "alone", "without", "weights", "of base"),
    "zh": ("层", "模块数", "占变化", "单独", "缺失", "占权重", "相对底模"),
}
_ANALYZED: dict[Language, tuple[str, ...]] = {
    "en": ("block", "changed", "inside", "outside", "focus"),
    "zh": ("层", "变化", "部位内", "部位外", "集中度"),
}


def _line(cells: Sequence[str]) -> str:
    """Cells in columns of a fixed-width font, in which Chinese letters are two wide."""
    first, *others = cells
    return (
        first
        + " " * (6 - _width(first))
        + "".join(" " * (10 - _width(cell)) + cell for cell in others)
    )


def _width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _spread(items: Sequence[ImageItem], count: int) -> tuple[ImageItem, ...]:
    """Take as many items as are wanted, at even distances."""
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))


def _encoded(
    base: BaseModel, dataset: Dataset, count: int, on_event: OnEvent, stop: StopFlag
) -> Clean | None:
    """Encode some of a dataset's pictures, all cropped to one square."""
    some = replace(dataset, items=_spread(dataset.items, count))
    rules = bucket_rules(DatasetConfig(folder=str(dataset.root), buckets=False), base.resolution)
    plan = lay_out(some.items, base.resolution, rules)
    with on_device(base.vae, base.device), torch.no_grad():
        latents = encode_latents(some, plan, base.encode_images, on_event, stop)
    if latents is None:
        return None
    return Clean(torch.stack([mean for mean, _ in latents]), some.captions)
