"""What a person at a page does beside training: look at a dataset, redraw, look into a file."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from .adapters.block_weights import BlockWeights
from .adapters.blocks import ORDERS, block_order
from .adapters.inspire import positions_of
from .adapters.live import LiveNetwork
from .adapters.presets import KNOWN_ELSEWHERE, preset_names
from .adapters.tags import Dialect, Tag, tag_elsewhere, write_tag
from .config.base import EMBEDDED, BaseConfig
from .config.dataset import DatasetConfig
from .config.recipe import Recipe
from .data.buckets import bucket_rules, lay_out
from .data.report import report_sheet, report_text
from .data.scan import Dataset, scan
from .errors import FileError
from .events import Finding, OnEvent, StopFlag, ignore, never
from .files.atomic import free_path
from .files.safetensors_file import read_header
from .files.tensor_file import FormatError
from .models.base_model import BaseModel
from .models.outline import outline_file
from .planner import checkpoint_path
from .preview.difference import difference
from .preview.grid import GridRequest
from .preview.metadata import encode_png
from .preview.sampling import draw

__all__ = [
    "ALL_BLOCKS",
    "ATTENTION_BLOCKS",
    "BlockWeights",
    "Dataset",
    "DatasetReport",
    "Dialect",
    "LiveNetwork",
    "NetworkFacts",
    "block_order",
    "dataset_report",
    "describe_network",
    "difference",
    "draw_with",
    "free_path",
    "own_resolution",
    "png",
    "prepare",
    "preset_names",
    "read_dataset",
    "tag_of",
]

ATTENTION_BLOCKS, ALL_BLOCKS = ORDERS[17], ORDERS[26]
"""Every block that a model of any family has: those with attention in SD 1.x, and all."""


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
    network: LiveNetwork | None,
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


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    return encode_png(picture, {})


@cache
def prepare() -> None:
    """Load the libraries that models are built from; to be called in one thread at a time.

    transformers loads its parts at their first use, and a second thread finds them half loaded.
    """
    outline_file(checkpoint_path(EMBEDDED), BaseConfig())


def own_resolution(config: BaseConfig) -> int:
    """The side in pixels that a checkpoint was made for. Raises CheckpointError."""
    return outline_file(checkpoint_path(config.checkpoint), config).facts.resolution


def describe_network(path: Path) -> NetworkFacts:
    """Read a LoRA file's header. Raises FileError for what is no safetensors file."""
    try:
        file = read_header(path)
        size = path.stat().st_size
    except (FormatError, OSError) as error:
        raise FileError(f"{path} can't be read: {error}; download or copy it again") from error
    names = {name.split(".")[0] for name in file.places}
    return NetworkFacts(metadata=dict(file.metadata), modules=len(names), bytes=size)


def tag_of(
    network: LiveNetwork,
    name: str,
    weights: BlockWeights,
    family: str,
    dialect: Dialect = "lbw",
) -> str:
    """Write what calls a network by its file's name with these weights, for a prompt elsewhere.

    ConfigError for what the dialect can't say.
    """
    known = weights.label if weights.label in KNOWN_ELSEWHERE else ""
    tag = tag_elsewhere(Tag(name=name), weights, family, network.blocks(), known)
    return write_tag(tag, dialect, family, positions_of(network.paths))
