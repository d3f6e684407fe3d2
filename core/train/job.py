"""A training from its plan to its file: encode, train, keep states, write, check."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..adapters.network import Network
from ..adapters.targets import find_targets
from ..config.mapping import to_mapping
from ..config.recipe import Recipe
from ..data.fingerprint import dataset_hash
from ..errors import FileError
from ..events import OnEvent, PhaseProgress, PhaseStarted, PreviewReady, Saved, StopFlag
from ..files.atomic import free_path
from ..files.metadata import training_metadata
from ..files.names import kohya_key
from ..files.network_file import WrittenFile, write_network
from ..files.resume import ResumeState, forget_states, save_state
from ..log import logger
from ..models.base_model import BaseModel
from .allocator import kept_memory
from .effect import require_effect
from .encode import Pictures, encode_dataset
from .facts import run_facts
from .history import History
from .loop import train_steps
from .placement import gradient_checkpointing
from .precision import PRECISIONS, Precision
from .states import StateKeeper
from .trainer import Trainer

# Draws what the recipe wants to see after a step, with the network attached; returns the file.
Sampler = Callable[[int], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished or stopped training, its network still in memory.

    path: the network file, None where no step was taken. steps: those taken in all.
    """

    network: Network
    path: Path | None
    steps: int
    stopped: bool
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a job is given: the recipe, the pictures, and where the network file goes."""

    recipe: Recipe
    pictures: Pictures
    resolution: int
    path: Path


class Job:
    """One training of a task on a base model, which is borrowed and put back."""

    def __init__(self, task: Task, base: BaseModel, on_event: OnEvent) -> None:
        self._task, self._base = task, base
        self._recipe = task.recipe
        self._history = History()
        self._on_event = self._history.listening(on_event)
        self.network = Network.create(
            find_targets(base.unet, base.text_encoder),
            task.recipe.network,
            task.recipe.training.seed,
        )

    def run(self, state: ResumeState | None, stop: StopFlag, sample: Sampler) -> Trained:
        """Train from the start or from `state`; the base model is put back, whatever happens."""
        if state is not None:
            state.require_same(*self._bound_to())
        with kept_memory(self._recipe.memory.keep_memory):
            data = encode_dataset(
                self._base, self._recipe, self._task.pictures, self._on_event, stop
            )
            if data is None:
                return self._trained(None, steps=0, stopped=True)
            trainer = Trainer(self._base, self.network, data, self._recipe, self._precision())
            if state is not None:
                self._restore(trainer, state)
            every = self._recipe.output.state_every
            keeper = StateKeeper(lambda: self._save_state(trainer), every, trainer.step)
            stopped = self._train(trainer, keeper, stop, sample)
        if trainer.step == 0:
            return self._trained(None, steps=0, stopped=True)
        return self._finish(trainer, keeper, stopped)

    def _train(
        self, trainer: Trainer, keeper: StateKeeper, stop: StopFlag, sample: Sampler
    ) -> bool:
        every = self._recipe.preview.every

        def after_step(step: int) -> None:
            keeper.after_step(step)
            if every and step % every == 0:
                self._on_event(PreviewReady(path=sample(step), step=step))

        base, checkpointing = self._base, self._recipe.memory.gradient_checkpointing
        self._on_event(PhaseStarted(name="train", total=trainer.steps))
        with (
            self.network.attached(base.unet, base.text_encoder),
            gradient_checkpointing([base.unet, base.text_encoder], checkpointing),
            keeper.kept_on_error(lambda: trainer.step),
        ):
            return train_steps(trainer, self._on_event, stop, after_step)

    def _finish(self, trainer: Trainer, keeper: StateKeeper, stopped: bool) -> Trained:
        """Write the network file and prove that it works; then the states are not needed."""
        if stopped:
            keeper.keep(trainer.step)
        self._on_event(PhaseStarted(name="save", total=2))
        path = self._task.path
        if stopped:
            path = free_path(path.with_name(f"{path.stem}-step{trainer.step:08d}{path.suffix}"))
        written = self._write(trainer, path)
        self._on_event(PhaseProgress(name="save", done=1, total=2))
        require_effect(self._base, written.path)
        self._on_event(PhaseProgress(name="save", done=2, total=2))
        self._on_event(Saved(path=written.path, kind="network"))
        if not stopped:
            forget_states(self._task.path)
        return self._trained(written.path, steps=trainer.step, stopped=stopped)

    def _write(self, trainer: Trainer, target: Path) -> WrittenFile:
        """Write to `target`; where that fails, to the system's temporary folder, and say so."""
        family = self._base.family.key
        weights = self.network.weights()
        modules = {kohya_key(path, family): tuple(weights[path]) for path in weights}
        facts = run_facts(self._base, self._task.pictures, self._task.resolution, trainer)
        metadata = training_metadata(self._recipe, facts)
        precision = self._recipe.output.precision
        try:
            return write_network(target, modules, metadata, precision)
        except FileError as error:
            refuge = free_path(Path(tempfile.gettempdir()) / target.name)
            try:
                write_network(refuge, modules, metadata, precision)
            except FileError:
                logger.exception("the trained network can't be written to %s either", refuge)
                self._save_state(trainer)
                raise error from None
            raise FileError(f"{error}. What was trained is safe in {refuge}: move it") from error

    def _save_state(self, trainer: Trainer) -> None:
        recipe, dataset, base = self._bound_to()
        factors = {
            f"factor.{name}": parameter.detach()
            for name, parameter in self.network.named_parameters().items()
        }
        if not all(bool(torch.isfinite(factor).all()) for factor in factors.values()):
            logger.warning("the factors are not finite any more: the last good state is kept")
            return
        state = ResumeState(
            recipe=recipe,
            dataset=dataset,
            base=base,
            step=trainer.step,
            images=trainer.images,
            losses=tuple(self._history.losses),
            lrs=tuple(self._history.lrs),
            tensors={**factors, **trainer.state_tensors()},
        )
        path = save_state(self._task.path, state)
        self._on_event(Saved(path=path, kind="state"))

    def _restore(self, trainer: Trainer, state: ResumeState) -> None:
        prefix = "factor."
        self.network.load_parameters(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in state.tensors.items()
                if name.startswith(prefix)
            }
        )
        trainer.restore(state.step, state.images, dict(state.tensors))
        self._history.losses[:] = state.losses
        self._history.lrs[:] = state.lrs

    def _precision(self) -> Precision:
        return next(p for p in PRECISIONS.values() if p.compute == self._base.dtype)

    def _bound_to(self) -> tuple[str, str, str]:
        """Hashes of what a resumed run must have in common with the stopped one."""
        pictures = self._task.pictures
        return (
            recipe_hash(self._recipe, self._task.resolution),
            dataset_hash(pictures.dataset, pictures.buckets),
            self._base.identity,
        )

    def _trained(self, path: Path | None, *, steps: int, stopped: bool) -> Trained:
        return Trained(
            network=self.network, path=path, steps=steps, stopped=stopped, history=self._history
        )


def recipe_hash(recipe: Recipe, resolution: int) -> str:
    """SHA-256 of all settings that change what is trained.

    Not of where files lie (they are bound by content), of previews, or of what is written.
    """
    settings = to_mapping(recipe)
    for section in ("output", "preview"):
        del settings[section]
    for section, name in (("dataset", "folder"), ("base", "checkpoint"), ("memory", "keep_memory")):
        del settings[section][name]
    settings["dataset"]["resolution"] = resolution
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
