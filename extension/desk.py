"""What the pages work on together: the host, the jobs, the dataset and the network at hand.

One desk serves every browser and outlives them; pages only show it and ask it for work.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from ..core import session
from ..core.config import BaseConfig, DatasetConfig, MemoryConfig, Recipe
from ..core.config.output import check_name
from ..core.errors import CheckpointError, ConfigError, DatasetError, FileError, TrainerError
from ..core.session import Baked, BaseModel, Dataset, Plan, PresetBook, Start, workbench
from .again import recipe_of
from .fields import NO_FOLDER
from .hosts.protocol import Host, Written
from .jobs import OVER, Board, Controls, Job, Tools
from .places import free_name, placed, require_allowed
from .stopped import StoppedTrainings
from .words import Words

logger = logging.getLogger("lora_loop")
_LAST, _PRESETS = "last-recipe.json", "presets.txt"
_MOST_FILES = 200_000  # of a dataset's folders, when looking whether something has changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A network in memory, and what it is drawn with.

    number: counts up, so that no two are taken for one. path: its file, if it has one.
    """

    number: int
    network: workbench.LiveNetwork
    recipe: Recipe
    family: str
    path: Path | None
    name: str


class Desk:
    """Methods may be called from any thread; long work goes to the board."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.board = Board()
        self.live: Live | None = None
        self._numbers = itertools.count(1)
        self.stopped = StoppedTrainings(host.folders().data / "begun")
        self._dataset: tuple[object, Dataset] | None = None
        self._lock = Lock()
        self.rebind(host)

    def rebind(self, host: Host) -> None:
        """Serve another host object: the user interface was loaded again."""
        self.host = host
        self.board.tools = Tools(show=host.show, wants_stop=host.wants_stop, rest=host.rest)

    @property
    def presets(self) -> PresetBook:
        """The presets of block weights that the users of this page have saved."""
        return PresetBook(self.host.folders().data / _PRESETS)

    def _prepare(self) -> None:
        with self._lock:
            workbench.prepare()

    # ---- recipes -----------------------------------------------------------------------------

    def fixed(self) -> dict[str, str]:
        """Settings that are the host's and not the user's: the checkpoint that is loaded."""
        if self.host.checkpoints():
            return {}
        loaded = self.host.loaded_checkpoint()
        if loaded is None:
            raise CheckpointError(
                f"no checkpoint is loaded in {self.host.title}: choose one at the top of the page"
            )
        return {"base.checkpoint": loaded}

    def first_recipe(self) -> Recipe:
        """What a new page shows: the settings that were used last, else the defaults."""
        folders = self.host.folders()
        try:
            return Recipe.load(folders.data / _LAST)
        except TrainerError:
            recipe = Recipe(dataset=DatasetConfig(folder=NO_FOLDER))
            output = replace(recipe.output, folder=str(folders.networks))
            return replace(recipe, output=output)

    def remember(self, recipe: Recipe) -> None:
        """Keep the settings for the next page, where the folder can be written."""
        folder = self.host.folders().data
        try:
            folder.mkdir(parents=True, exist_ok=True)
            recipe.save(folder / _LAST)
        except (OSError, FileError) as error:
            logger.warning("the settings can't be kept in %s: %s", folder, error)

    # ---- datasets ----------------------------------------------------------------------------

    def dataset(self, config: DatasetConfig, controls: Controls | None = None) -> Dataset:
        """The dataset, read anew only where one of its files has changed."""
        scanned = replace(config, resolution=0, buckets=True, bucket_step=0, bucket_upscale=False)
        key = (scanned, tuple(_marks(Path(config.folder))))
        with self._lock:
            if self._dataset is not None and self._dataset[0] == key:
                return self._dataset[1]
        if controls is None:
            dataset = workbench.read_dataset(config)
        else:
            dataset = workbench.read_dataset(config, controls.on_event, controls.stop)
        if dataset is None:
            raise DatasetError("reading the pictures was stopped; read them again to go on")
        with self._lock:
            self._dataset = (key, dataset)
        return dataset

    def read(self, config: DatasetConfig) -> Job:
        """Put reading a dataset into the queue; a job that reads what is known is over at once."""
        return self.board.submit(
            "read", Path(config.folder).name, lambda controls: self.dataset(config, controls)
        )

    def resolution(self, recipe: Recipe) -> int:
        """The side in pixels that pictures are trained at. Raises CheckpointError."""
        self._prepare()
        return recipe.dataset.resolution or workbench.own_resolution(recipe.base)

    def placed(self, recipe: Recipe) -> Recipe:
        """The recipe with every path real and allowed. Raises FileError."""
        return placed(recipe, self.host.folders())

    def plan(self, recipe: Recipe, start: Start = "new") -> Plan:
        """Check a recipe and count its steps. Raises TrainerError."""
        recipe = placed(recipe, self.host.folders())
        self._prepare()
        return session.make_plan(recipe, start, dataset=self.dataset(recipe.dataset))

    def next_name(self, recipe: Recipe) -> str:
        """A name for the next training that neither a file nor a job has."""
        taken = {job.title for job in self.board.jobs() if job.state not in OVER}
        name, number = free_name(Path(recipe.output.folder), recipe.output.name), 2
        while f"{name}.safetensors" in taken:
            name = free_name(Path(recipe.output.folder), f"{recipe.output.name}-{number}")
            number += 1
        return name

    # ---- work --------------------------------------------------------------------------------

    def train(self, recipe: Recipe, start: Start = "new") -> Job:
        """Put a training into the queue. Raises TrainerError for what can be seen beforehand."""
        plan = self.plan(recipe, start)
        for job in self.board.jobs():
            if job.state not in OVER and job.title == plan.path.name:
                raise ConfigError(
                    f"output.name: a training of {plan.path.stem} is already "
                    f"{'running' if job.state != 'waiting' else 'waiting'}; choose another name"
                )
        recipe = plan.recipe
        self.stopped.begun(recipe)
        return self.board.submit("train", plan.path.name, self._training(recipe, start))

    def _training(self, recipe: Recipe, start: Start) -> Callable[[Controls], Path | None]:
        say = Words(self.host.language())

        def work(controls: Controls) -> Path | None:
            self._prepare()
            dataset = self.dataset(recipe.dataset, controls)
            plan = session.make_plan(recipe, start, controls.on_event, dataset)
            controls.on_event(plan.event())
            with self.host.borrow(recipe.base, recipe.memory) as base:
                trained = session.run(
                    plan, base, start=start, on_event=controls.on_event, stop=controls.stop
                )
                if trained.steps:
                    controls.attempt(
                        lambda: session.write_loss_plot(trained, plan.path, controls.on_event),
                        say(
                            "The training is done and saved; its loss plot could not be written: ",
                            "训练已完成并保存，但损失曲线未能写出：",
                        ),
                    )
                live = Live(
                    number=next(self._numbers),
                    network=trained.network,
                    recipe=recipe,
                    family=base.family.key,
                    path=trained.path,
                    name=(trained.path or plan.path).stem,
                )
                self.live = live if trained.steps else self.live
                picture = None
                if trained.path and not trained.stopped:
                    picture = self._last_picture(live, base, controls)
            self.stopped.finished(recipe)
            if trained.path:
                self.host.written(
                    Written(path=trained.path, trigger=recipe.output.trigger, picture=picture)
                )
            return trained.path

        return work

    def _last_picture(self, live: Live, base: BaseModel, controls: Controls) -> Path | None:
        """The recipe's prompts with the finished network, beside its file; None without it.

        The training is done and saved by then: it has not failed where this can't be drawn.
        """
        preview, path = live.recipe.preview, live.path
        if not preview.prompts or path is None:
            return None
        say = Words(self.host.language())
        request = session.grid_request(
            replace(live.recipe, preview=replace(preview, presets=("NONE", "ALL"))),
            live.name,
            say.language,
        )

        def drawn() -> Path | None:
            grid = session.preview(base, live.network, request, controls.on_event, controls.stop)
            if grid.stopped:
                return None
            session.write_grid(grid, session.grid_path(path), controls.on_event, overwrite=True)
            return session.grid_path(path)

        failed = say(
            "The training is done and saved; its last picture could not be drawn: ",
            "训练已完成并保存，但最后的预览图未能生成：",
        )
        return controls.attempt(drawn, failed)

    def bake(
        self, source: Path, weights: str | workbench.BlockWeights, name: str, seed: int = 1
    ) -> Baked:
        """Fold block weights into a new file of the networks' folder. Raises TrainerError.

        seed: for R and U among the weights.
        """
        name = (name or "").strip()
        check_name("the new file's name", name)
        path = self.host.folders().networks / f"{name}.safetensors"
        bake = session.Bake(weights=weights, seed=seed, presets=self.presets.presets())
        baked = session.bake_file(source, bake, path)
        self.host.written(Written(path=baked.file.path))
        return baked

    def recipe_of(self, path: Path, current: Recipe) -> Recipe:
        """The settings that a file was trained with, for another training in its place."""
        recipe = recipe_of(workbench.describe_network(path).metadata, current)
        name = free_name(Path(recipe.output.folder), path.stem)
        return replace(recipe, output=replace(recipe.output, name=name))

    def open_file(self, path: Path, base: BaseConfig, memory: MemoryConfig) -> Job:
        """Put opening a LoRA file for the Blocks page into the queue."""
        folders = self.host.folders()
        if not self.fixed():
            checkpoint = base.checkpoint
            if checkpoint != "embedded":
                checkpoint = str(require_allowed(folders, "base.checkpoint", checkpoint))
            base = replace(base, checkpoint=checkpoint)
        recipe = replace(self.first_recipe(), base=base, memory=memory)

        def work(controls: Controls) -> Path:
            self._prepare()
            controls.note(str(path))
            with self.host.borrow(base, memory) as model:
                network = session.open_network(model, path)
                self.live = Live(
                    number=next(self._numbers),
                    network=network,
                    recipe=recipe,
                    family=model.family.key,
                    path=path,
                    name=path.stem,
                )
            return path

        return self.board.submit("open", path.name, work)


def _marks(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of every file of a dataset, to see whether it is still the same."""
    seen = 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            seen += 1
            if seen > _MOST_FILES:
                return
            try:
                status = (Path(root) / name).stat()
            except OSError:
                continue
            yield str(Path(root) / name), status.st_size, status.st_mtime_ns
