"""What a person at a page does beside training: look at a dataset, redraw, look into a file."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .adapters.block_weights import BlockWeights
from .adapters.network import Network
from .config.dataset import DatasetConfig
from .config.recipe import Recipe
from .data.buckets import bucket_rules, lay_out
from .data.report import report_sheet, report_text
from .data.scan import Dataset, scan
from .errors import FileError
from .events import Finding, OnEvent, StopFlag, ignore, never
from .files.safetensors_file import read_header
from .files.tensor_file import FormatError
from .models.base_model import BaseModel
from .preview.grid import GridRequest
from .preview.sampling import draw

__all__ = [
    "Dataset",
    "DatasetReport",
    "NetworkFacts",
    "dataset_report",
    "describe_network",
    "draw_with",
    "read_dataset",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What a dataset will train as. sheet: its pictures by bucket, cropped parts dimmed."""

    text: str
    sheet: Image.Image
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What a LoRA file's header says, read without its numbers."""

    metadata: dict[str, str]
    modules: int
    bytes: int


def read_dataset(
    config: DatasetConfig, on_event: OnEvent = ignore, stop: StopFlag = never
) -> Dataset | None:
    """Read every picture and caption; None where it was stopped. Raises DatasetError."""
    return scan(config.folder, config.caption_extension, on_event, stop=stop)


def dataset_report(dataset: Dataset, recipe: Recipe, resolution: int) -> DatasetReport:
    """Lay a dataset out for pictures of `resolution` pixels and say what becomes of it."""
    buckets = lay_out(dataset.items, resolution, bucket_rules(recipe.dataset, resolution))
    return DatasetReport(
        text=report_text(dataset, buckets, recipe.training),
        sheet=report_sheet(dataset, buckets),
        findings=(*dataset.findings, *buckets.findings),
    )


def draw_with(
    base: BaseModel,
    network: Network | None,
    weights: BlockWeights | None,
    request: GridRequest,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> list[Image.Image]:
    """A picture for each of the request's prompts with one choice of block weights, no other.

    Without `network` the base model alone draws. The base model and the network's strengths are
    put back. Fewer pictures come where it was stopped.
    """
    attached: AbstractContextManager[None] = nullcontext()
    weighted: AbstractContextManager[None] = nullcontext()
    if network is not None:
        attached, weighted = network.attached(base.parts), network.with_block_weights(weights)
    with attached, weighted:
        return draw(base, request.prompts, request.settings, on_event, stop)


def describe_network(path: Path) -> NetworkFacts:
    """Read a LoRA file's header. Raises FileError for what is no safetensors file."""
    try:
        file = read_header(path)
        size = path.stat().st_size
    except (FormatError, OSError) as error:
        raise FileError(f"{path} can't be read: {error}; download or copy it again") from error
    names = {name.split(".")[0] for name in file.places}
    return NetworkFacts(metadata=dict(file.metadata), modules=len(names), bytes=size)
