"""The only way in: plan a recipe, run the plan, preview the network that is still in memory.

plan = make_plan(recipe)                                   every check, no work
base = open_base(recipe.base, recipe.memory, device)       the base model, frozen
with adopt(live, recipe.base, recipe.memory, device) as base:    or a host's, lent without a copy
trained = run(plan, base, on_event=..., stop=...)          encode, train, write, read back
grid = preview(base, trained.network, request)             no file and no merge in between
bake_file(trained.path, Bake(weights="NOFACE"))            a plain file, weights folded in
caption(folder, settings, open_captioner(settings, ...))   captions before all that; undo_captions
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from . import graphwork, study, workbench
from .adapters.applied import AppliedNetwork, AppliedStack, acting_layers, compute_as_given
from .adapters.block_weights import BlockWeights
from .adapters.blocks import block_of
from .adapters.decompose import RankRule
from .adapters.live import LiveNetwork
from .adapters.network import Network
from .adapters.strength import Strength, Window
from .adapters.tags import Tag, read_tag, read_tags, write_tag
from .adapters.updates import autocast_dtype
from .captions import (
    CaptionChange,
    Captioner,
    CaptionReport,
    Captions,
    caption,
    find_captioners,
    open_captioner,
    read_captions,
    undo_captions,
    write_captions,
)
from .config.base import BaseConfig
from .config.memory import MemoryConfig
from .config.preview import PreviewConfig
from .config.recipe import Recipe
from .diffusion.seeds import Noise, Seeding
from .errors import ConfigError, FileError
from .events import Finished, OnEvent, StopFlag, ignore, never
from .files.adapter_file import read_adapters
from .files.atomic import refuse_existing
from .files.images import write_png
from .files.resume import forget_states, load_state, state_paths
from .keep.operations import (
    Bake,
    Baked,
    Merge,
    bake_file,
    extract_file,
    fold_files,
    merge_files,
    recipe_with_blocks,
    resize_file,
    tag_for,
)
from .keep.presets import PresetBook
from .log import logger
from .models.adoption import adopted
from .models.artist import Artist, Brief
from .models.base_model import BaseModel, load_base_model
from .models.live import LiveFacts, LiveModel
from .models.networks import open_applied, open_network
from .models.text import TextOptions
from .outputs import (
    grid_path,
    loss_plot,
    loss_plot_path,
    samples_folder,
    side_by_side,
    write_grid,
    write_grid_page,
    write_loss_plot,
)
from .planner import Plan, network_path
from .planner import make_plan as planned
from .preview.axes import AXES, Axis, AxisKind, XYZRequest
from .preview.grid import Grid, GridRequest, render_grid
from .preview.record import GridRecord, read_grid
from .preview.sampling import DrawSettings, Prompt, draw
from .preview.table import Cell, Language, Table
from .train.host_watch import HostWatch
from .train.job import Job, Trained
from .train.live_tensors import network_tensors
from .train.precision import resolve_precision, suit_precision
from .train.task import Task
from .workbench import Dataset

__all__ = [
    "AXES",
    "AppliedNetwork",
    "AppliedStack",
    "Artist",
    "Axis",
    "AxisKind",
    "Bake",
    "Baked",
    "BaseModel",
    "BlockWeights",
    "Brief",
    "CaptionChange",
    "CaptionReport",
    "Captioner",
    "Captions",
    "Cell",
    "Dataset",
    "DrawSettings",
    "Grid",
    "GridRecord",
    "GridRequest",
    "LiveFacts",
    "LiveModel",
    "LiveNetwork",
    "Merge",
    "Network",
    "Noise",
    "Plan",
    "PresetBook",
    "Prompt",
    "RankRule",
    "Seeding",
    "Start",
    "Strength",
    "Table",
    "Tag",
    "TextOptions",
    "Trained",
    "Window",
    "XYZRequest",
    "acting_layers",
    "adopt",
    "autocast_dtype",
    "bake_file",
    "block_of",
    "caption",
    "compute_as_given",
    "extract_file",
    "find_captioners",
    "fold_files",
    "graphwork",
    "grid_path",
    "loss_plot",
    "loss_plot_path",
    "make_plan",
    "merge_files",
    "network_tensors",
    "open_applied",
    "open_base",
    "open_captioner",
    "open_network",
    "pick_device",
    "preview",
    "read_captions",
    "read_grid",
    "read_tag",
    "read_tags",
    "recipe_with_blocks",
    "resize_file",
    "run",
    "samples_folder",
    "side_by_side",
    "study",
    "tag_for",
    "undo_captions",
    "workbench",
    "write_captions",
    "write_grid",
    "write_grid_page",
    "write_loss_plot",
    "write_tag",
]

Start = Literal["new", "resume", "restart"]

Paint = Callable[[Network], Sequence[Image.Image]]
"""Draws the recipe's prompts with the network that is trained; fewer pictures where it stopped."""


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is the GPU where there is one, else the CPU; otherwise the device of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"--device {name} can't be used ({str(error).splitlines()[0]}); there are "
            f"{', '.join(there)}"
        ) from error
    return device


def open_base(base: BaseConfig, memory: MemoryConfig, device: torch.device) -> BaseModel:
    """Load a checkpoint, frozen, in the precision of the run. Raises CheckpointError."""
    return load_base_model(
        base.checkpoint,
        device=device,
        dtype=resolve_precision(memory.precision, device).compute,
        prediction=base.prediction,
        zero_terminal_snr=base.zero_terminal_snr,
        vae=base.vae,
    )


@contextmanager
def adopt(
    live: LiveModel, base: BaseConfig, memory: MemoryConfig, device: torch.device
) -> Iterator[BaseModel]:
    """A base model over a host's own weights, for the length of a with block.

    `base.checkpoint` is not read. No weight exists twice, but what lies on another device than
    `device` is copied there; weights in another format than the run's are converted at each use.
    The host's model is only looked at: HostChangedError at the end where it is not as it was.
    Raises CheckpointError for a model that can't be trained on, with the reason.
    """

    def compute(stored: torch.dtype) -> torch.dtype:
        return suit_precision(memory.precision, device, stored).compute

    with adopted(live, base, device, compute) as model:
        yield model


def run(
    plan: Plan,
    base: BaseModel,
    *,
    start: Start = "new",
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
    paint: Paint | None = None,
) -> Trained:
    """Train the plan on `base`, write the network file, and read it back.

    start: "new" refuses where a stopped run of the same name waits, "resume" goes on with it, and
    "restart" forgets it. `stop` is asked between steps: what was trained is kept, as a network file
    of its own and as a resume state. `base` is afterwards as it was, whatever happens. Where it is
    a host's and the host changes it meanwhile, the training stops in the same way, and
    HostChangedError tells. `paint` draws the previews on the way in place of our own sampler.
    """
    refuse_lost_state(plan.path, start)
    if start == "restart":
        forget_states(plan.path)
    state = load_state(plan.path)
    task = Task(
        recipe=plan.recipe, pictures=plan.pictures, resolution=plan.resolution, path=plan.path
    )
    job = Job(task, base, on_event)
    watch = HostWatch(base, stop)
    pictures = _own_pictures(plan, base, watch) if paint is None else partial(paint, job.network)
    trained = job.run(state, watch, _sampler(plan, pictures))
    on_event(
        Finished(
            path=trained.path,
            steps=trained.steps,
            stopped=trained.stopped,
            findings=plan.findings,
        )
    )
    watch.require_unchanged(_what_was_saved(trained))
    return trained


def _what_was_saved(trained: Trained) -> str:
    if trained.path is None:
        return "before its first step"
    state = ", and its resume state beside it" if trained.stopped else ""
    return f"what was trained in {trained.steps} steps is in {trained.path}{state}"


def _own_pictures(plan: Plan, base: BaseModel, stop: StopFlag) -> Callable[[], list[Image.Image]]:
    """Draws the recipe's prompts on the base model with whatever network is attached to it."""
    recipe = plan.recipe
    prompts = [Prompt(text, recipe.preview.negative_prompt) for text in recipe.preview.prompts]
    settings = DrawSettings.of(recipe.preview, TextOptions.of(recipe))
    if prompts:
        settings.artist(base)  # before the training, not at its first picture
    return lambda: draw(base, prompts, settings, stop=stop)


def _sampler(
    plan: Plan, pictures: Callable[[], Sequence[Image.Image]]
) -> Callable[[int], Path | None]:
    """Puts the pictures of the recipe's prompts side by side into one PNG file."""

    def sample(step: int) -> Path | None:
        drawn = pictures()
        if len(drawn) < len(plan.recipe.preview.prompts):
            return None
        path = samples_folder(plan.path) / f"step-{step:08d}.png"
        try:
            write_png(path, side_by_side(drawn), overwrite=True)
        except FileError as error:  # a picture is not worth the training
            logger.warning("%s", error)
            return None
        return path

    return sample


def make_plan(
    recipe: Recipe,
    start: Start = "new",
    on_event: OnEvent = ignore,
    dataset: Dataset | None = None,
    base: BaseModel | None = None,
) -> Plan:
    """Check everything that can be checked and count the true steps; `start` as in `run`.

    dataset: that of the recipe where `read_dataset` has read it already. base: an adopted one, in
    whose place `recipe.base.checkpoint` is not looked at. Raises the TrainerError of whatever would
    fail later.
    """
    path = network_path(recipe)
    refuse_lost_state(path, start)
    if start == "new":
        for companion in (loss_plot_path(path), grid_path(path), samples_folder(path)):
            refuse_existing(companion)
    return planned(recipe, on_event, dataset, base)


def has_state(network: Path) -> bool:
    """Whether a stopped training of the network file `network` waits to be gone on with."""
    return any(path.exists() for path in state_paths(network))


def refuse_lost_state(network: Path, start: Start) -> None:
    """Raise FileError where `start` does not go with the resume states that are there."""
    waits = has_state(network)
    if start == "new" and waits:
        raise FileError(
            f"a stopped training of this name waits beside {network}: go on with --resume, or "
            "forget it with --restart"
        )
    if start == "resume" and not waits:
        raise FileError(
            f"there is no stopped training to go on with: {state_paths(network)[0]} does not "
            "exist; train without --resume"
        )


def preview(
    base: BaseModel,
    network: LiveNetwork,
    request: GridRequest | XYZRequest | Table,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> Grid:
    """Draw block weights x prompts, or any axes, with the network that is in memory.

    Files that a network axis names are read before anything is drawn. A grid's own table, as
    `read_grid` gives it, draws it again. Other networks act beside it where it is attached as one
    of an `AppliedStack`.
    """

    def open_other(name: str) -> LiveNetwork:
        return open_network(base, Path(name))

    return render_grid(base, network, request, on_event, stop, open_other)


def check_preview(network: Path, settings: PreviewConfig) -> None:
    """Refuse what a preview would refuse later, before gigabytes of a base model are read."""
    family = read_adapters(network).family or "sd1"
    for preset in settings.presets:
        BlockWeights.parse(preset, family, seed=settings.seed)


def grid_request(recipe: Recipe, name: str, language: Language = "en") -> GridRequest:
    """The grid that the recipe's preview settings ask for.

    name: the network's. language: of the sheet's words.
    """
    negative = recipe.preview.negative_prompt
    return GridRequest(
        prompts=tuple(Prompt(text, negative) for text in recipe.preview.prompts),
        presets=recipe.preview.presets,
        settings=DrawSettings.of(recipe.preview, TextOptions.of(recipe)),
        network_name=name,
        language=language,
    )
