"""Before any work: what a recipe will really do, what it costs, and whether it can."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .adapters.block_weights import BlockWeights
from .adapters.network import Size, adapter_size
from .adapters.targets import find_targets
from .config.network import NetworkConfig
from .config.recipe import Recipe
from .data.batches import BatchPlan
from .data.buckets import Bucket, bucket_rules, lay_out
from .data.scan import Dataset, scan
from .errors import ConfigError, FileError
from .events import Finding, OnEvent, Planned, ignore
from .models.base_model import EMBEDDED, BaseModel, Loan, Outline
from .models.keymaps import UNetLayout
from .models.outline import outline_file
from .models.text import MOST_CHUNKS, takes_clip_skip
from .models.tokenizer import ROOM, ClipTokenizer
from .train.encode import Pictures

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "auto": 4}
_STATES = 3  # on the disk at one time: two that are kept, and a draft
_METADATA_BYTES, _MODULE_BYTES = 32 << 10, 420  # of a network file's header, about
# Values kept for the backward pass, for each token and channel of a transformer or residual block.
_TRANSFORMER_VALUES = 31
_RESNET_VALUES = 8
_CHECKPOINTED_PART = 1 / 6
_MUCH_RANK = 128
_HIGH_RATE = 1e-2
_FEW_PICTURES = 10
_FEW_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe that was checked against its files: nothing in it is a guess but `memory_bytes`.

    path: the network file that will be written. resolution: pixels, resolved from the base model.
    """

    recipe: Recipe
    outline: Outline
    pictures: Pictures
    resolution: int
    path: Path
    file_bytes: int
    memory_bytes: int
    findings: tuple[Finding, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.pictures.batches.steps

    def event(self) -> Planned:
        """The plan as its event."""
        return Planned(
            steps=self.steps,
            epochs=self.pictures.batches.epochs,
            images=len(self.pictures.dataset.items),
            buckets=len(self.pictures.buckets.buckets),
            file_bytes=self.file_bytes,
            memory_bytes=self.memory_bytes,
            findings=self.findings,
        )


def make_plan(
    recipe: Recipe,
    on_event: OnEvent = ignore,
    dataset: Dataset | None = None,
    base: BaseModel | None = None,
) -> Plan:
    """Check everything that can be checked and count the true steps.

    dataset: that of the recipe where it has been read already. base: one that a host has lent, in
    whose place no checkpoint is looked at. Raises the TrainerError of whatever would fail later:
    settings, checkpoint, dataset, output.
    """
    path = network_path(recipe)
    _check_presets(recipe)
    loan = None if base is None else base.loan
    if loan is None:
        outline = outline_file(checkpoint_path(recipe.base.checkpoint), recipe.base)
    else:
        outline = loan.outline
    _check_base(recipe, outline)
    file_bytes = adapter_bytes(outline, recipe) + header_bytes(outline, recipe)
    check_folder(path.parent, file_bytes + _STATES * factor_bytes(outline, recipe))
    resolution = recipe.dataset.resolution or outline.facts.resolution
    pictures = lay_out_dataset(recipe, resolution, on_event, dataset)
    return Plan(
        recipe=recipe,
        outline=outline,
        pictures=pictures,
        resolution=resolution,
        path=path,
        file_bytes=file_bytes,
        memory_bytes=memory_bytes(outline, recipe, pictures, loan),
        findings=(
            *pictures.dataset.findings,
            *pictures.buckets.findings,
            *_advice(recipe, pictures, resolution, outline),
        ),
    )


def lay_out_dataset(
    recipe: Recipe, resolution: int, on_event: OnEvent = ignore, dataset: Dataset | None = None
) -> Pictures:
    """Scan the recipe's dataset, unless it is given, and lay it out for `resolution` pixels."""
    config = recipe.dataset
    if dataset is None:
        dataset = scan(config.folder, config.caption_extension, on_event)
    buckets = lay_out(dataset.items, resolution, bucket_rules(config, resolution))
    return Pictures(dataset, buckets, BatchPlan(buckets, dataset.items, recipe.training))


def checkpoint_path(checkpoint: str) -> Path:
    """The file that `base.checkpoint` stands for."""
    return EMBEDDED if checkpoint == "embedded" else Path(checkpoint).expanduser()


def network_path(recipe: Recipe) -> Path:
    """Where the trained network goes. A file that is there already is a FileError."""
    path = Path(recipe.output.folder).expanduser() / f"{recipe.output.name}.safetensors"
    if path.exists():
        raise FileError(
            f"{path} exists; nothing is overwritten: set another output.name or output.folder, "
            "or move that file away"
        )
    return path


def check_folder(folder: Path, needed_bytes: int) -> None:
    """Make the folder and prove that a file of that size can be written into it."""
    probe = folder / f".lora-loop-{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"writable")
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"output.folder {folder} can't be written ({error.strerror or error}); choose a "
            "folder that you may write to"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FileError(
            f"output.folder {folder} has {free >> 20} MiB free, but the network and its resume "
            f"states need {needed_bytes >> 20} MiB; free some space or choose another disk"
        )


def adapter_bytes(outline: Outline, recipe: Recipe) -> int:
    """Exact bytes of the network's tensors in the file: both factors and alpha of each layer."""
    item = _BYTES[recipe.output.precision]
    sizes = _adapters(outline, recipe.network)
    return sum((size.rank * _reach(layer) + 1) * item for layer, size in sizes)


def header_bytes(outline: Outline, recipe: Recipe) -> int:
    """About the bytes of the file's names and metadata."""
    return _METADATA_BYTES + _MODULE_BYTES * len(_adapters(outline, recipe.network))


def factor_bytes(outline: Outline, recipe: Recipe) -> int:
    """Bytes of the fp32 factors with AdamW's two moments: a resume state."""
    return adapter_bytes(outline, recipe) // _BYTES[recipe.output.precision] * 4 * 3


def memory_bytes(
    outline: Outline, recipe: Recipe, pictures: Pictures, loan: Loan | None = None
) -> int:
    """Rough peak of a run: weights, factors with gradients and moments, activations.

    Of weights that a host has lent, only what is taken beside the host's.
    """
    item = _BYTES[recipe.memory.precision] if loan is None else loan.dtype.itemsize
    counts = {part: _count(network) for part, network in outline.networks.items()}
    weights = item * sum(counts.values()) + (4 - item) * counts["vae"]  # which stays fp32
    if loan is not None:
        weights = loan.own_bytes
    factors = factor_bytes(outline, recipe) * 4 // 3  # and their gradients
    batch = recipe.training.batch_size
    largest = max(pictures.buckets.buckets, key=lambda bucket: bucket.width * bucket.height)
    values = sum(_activation_values(outline.layout.unet, largest)) * batch
    if recipe.memory.gradient_checkpointing:
        values *= _CHECKPOINTED_PART
    return int(weights + factors + values * item)


def _adapters(outline: Outline, network: NetworkConfig) -> list[tuple[nn.Module, Size]]:
    """Each layer that the settings adapt, with its adapter's size."""
    targets = find_targets({part: own for part, own in outline.networks.items() if part != "vae"})
    sizes = ((layer, adapter_size(path, layer, network)) for path, layer in targets.items())
    return [(layer, size) for layer, size in sizes if size is not None]


def _reach(layer: nn.Module) -> int:
    """Inputs of `down` plus outputs of `up`, in numbers for each unit of rank."""
    weight = layer.get_parameter("weight")
    return weight[0].numel() + weight.shape[0]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _activation_values(layout: UNetLayout, bucket: Bucket) -> Iterator[float]:
    tokens = bucket.width * bucket.height / 64
    deepest = len(layout.widths) - 1
    for level, (width, depth) in enumerate(zip(layout.widths, layout.depths, strict=True)):
        here = tokens / 4**level * width
        blocks = layout.resnets * 2 + 1
        yield here * blocks * (_RESNET_VALUES + _TRANSFORMER_VALUES * depth)
    here = tokens / 4**deepest * layout.widths[deepest]
    yield here * (2 * _RESNET_VALUES + _TRANSFORMER_VALUES * layout.middle_depth)


def _check_presets(recipe: Recipe) -> None:
    for preset in recipe.preview.presets:
        BlockWeights.parse(preset, seed=recipe.preview.seed)


def _check_base(recipe: Recipe, outline: Outline) -> None:
    """What only recipe and checkpoint together tell."""
    layers = outline.layout.texts["text_encoder"].layers
    if takes_clip_skip(outline.facts.family.key) and recipe.base.clip_skip > layers:
        raise ConfigError(
            f"base.clip_skip is {recipe.base.clip_skip}, but the text encoder of "
            f"{outline.facts.path} has {layers} layers; set it to 1 or 2"
        )
    if outline.facts.zero_terminal_snr and recipe.objective.noise_offset:
        raise ConfigError(
            f"objective.noise_offset is {recipe.objective.noise_offset:g}, but the checkpoint has "
            "zero terminal SNR; both mend the brightness and together they spoil it: set it to 0"
        )


def _advice(
    recipe: Recipe, pictures: Pictures, resolution: int, outline: Outline
) -> Iterator[Finding]:
    """What is allowed and usually a mistake."""
    images, own = len(pictures.dataset.items), outline.facts.resolution
    family = outline.facts.family
    rate = max(recipe.optimizer.unet_lr, recipe.optimizer.text_encoder_lr)
    remarks = {
        f"only {images} pictures: 15 or more, of different poses and backgrounds, "
        "keep the network from learning them by heart": images < _FEW_PICTURES,
        f"only {pictures.batches.steps} steps: most subjects take 500 to 2000; raise "
        "training.epochs": pictures.batches.steps < _FEW_STEPS,
        f"a learning rate of {rate:g} is far above what AdamW takes (1e-5 to 1e-3): expect the "
        "training to diverge": rate > _HIGH_RATE,
        f"network.rank {recipe.network.rank} makes a large file that rarely looks better than "
        "32": recipe.network.rank > _MUCH_RANK,
        f"base.clip_skip {recipe.base.clip_skip} is ignored: {family.title} always reads the same "
        "layer of its text encoder": recipe.base.clip_skip != 1 and not takes_clip_skip(family.key),
        f"dataset.resolution {resolution} is far from the base model's "
        f"{own}: it draws worse there": not 0.5 <= resolution / own <= 2,
    }
    for text, applies in remarks.items():
        if applies:
            yield Finding(level="warning", text=text)
    cut = count_cut_captions(recipe, pictures)
    if cut:
        room = recipe.dataset.caption_tokens
        remedy = "shorten them" if room == MOST_CHUNKS * ROOM else "raise it, or shorten them"
        yield Finding(
            level="warning",
            text=f"{cut} captions are longer than dataset.caption_tokens {room}, and what goes "
            f"beyond is not learnt: {remedy}",
        )


def count_cut_captions(recipe: Recipe, pictures: Pictures) -> int:
    """How many different captions have more tokens than the recipe reads of each."""
    room, weighted = recipe.dataset.caption_tokens, recipe.dataset.weighted_captions
    # a token is a byte at the least, so that short captions need not be counted
    long = {caption for caption in pictures.dataset.captions if len(caption.encode()) > room}
    tokenizer = ClipTokenizer()
    return sum(tokenizer.count(caption, weighted=weighted) > room for caption in long)
