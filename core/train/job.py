"""A training from its plan to its file: encode, train, keep states, write, check."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..adapters.network import Network
from ..adapters.targets import find_targets
from ..events import OnEvent, PhaseProgress, PhaseStarted, PreviewReady, Saved, StopFlag
from ..files.atomic import free_path
from ..files.resume import ResumeState, forget_states
from ..models.base_model import BaseModel
from .allocator import kept_memory
from .encode import encode_dataset
from .history import History
from .loop import train_steps
from .placement import gradient_checkpointing
from .precision import precision_of
from .saving import Saver
from .states import StateKeeper
from .task import Task
from .trainer import Trainer

# Draws what the recipe wants to see after a step, with the network attached; gives the file, or
# None where nothing was drawn.
Sampler = Callable[[int], Path | None]


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


class Job:
    """One training of a task on a base model, which is borrowed and put back."""

    def __init__(self, task: Task, base: BaseModel, on_event: OnEvent) -> None:
        self._task, self._base = task, base
        self._history = History()
        self._on_event = self._history.listening(on_event)
        self._network = Network.create(
            find_targets(base.parts),
            task.recipe.network,
            task.recipe.training.seed,
        )
        self._saver = Saver(task, base, self._network, self._history)

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return self._network

    def run(self, state: ResumeState | None, stop: StopFlag, sample: Sampler) -> Trained:
        """Train from the start or from `state`; the base model is put back, whatever happens."""
        if state is not None:
            self._saver.require_same(state)
        recipe, base = self._task.recipe, self._base
        with kept_memory(recipe.memory.keep_memory):
            data = encode_dataset(base, recipe, self._task.pictures, self._on_event, stop)
            if data is None:
                steps = 0 if state is None else state.step
                return self._trained(None, steps=steps, stopped=True)
            trainer = Trainer(base, self._network, data, recipe, precision_of(base.dtype))
            if state is not None:
                self._restore(trainer, state)
            keeper = StateKeeper(
                lambda: self._save_state(trainer), recipe.output.state_every, trainer.step
            )
            with keeper.kept_on_error(trainer):
                stopped = self._train(trainer, keeper, stop, sample)
                if trainer.step == 0:
                    return self._trained(None, steps=0, stopped=True)
                return self._finish(trainer, keeper, stopped)

    def _train(
        self, trainer: Trainer, keeper: StateKeeper, stop: StopFlag, sample: Sampler
    ) -> bool:
        every = self._task.recipe.preview.every

        def after_step(step: int) -> None:
            keeper.after_step(step)
            path = sample(step) if every and step % every == 0 else None
            if path is not None:
                self._on_event(PreviewReady(path=path, step=step))

        base, checkpointing = self._base, self._task.recipe.memory.gradient_checkpointing
        self._on_event(PhaseStarted(name="train", total=trainer.steps))
        with (
            self._network.attached(base.parts),
            self._network.training(),
            gradient_checkpointing(list(base.parts.values()), checkpointing),
            trainer.recording(),
        ):
            return train_steps(trainer, self._on_event, stop, after_step, keeper.is_due)

    def _finish(self, trainer: Trainer, keeper: StateKeeper, stopped: bool) -> Trained:
        """Write the network file, the smaller one, first; a stopped run needs its state as well."""
        self._on_event(PhaseStarted(name="save", total=1))
        path = self._task.path
        if stopped:
            path = free_path(path.with_name(f"{path.stem}-step{trainer.step:08d}{path.suffix}"))
        written = self._saver.write_network(trainer, path)
        if stopped:
            keeper.keep(trainer.step)
        else:
            forget_states(self._task.path)
        self._on_event(PhaseProgress(name="save", done=1, total=1))
        self._on_event(Saved(path=written.path, kind="network"))
        return self._trained(written.path, steps=trainer.step, stopped=stopped)

    def _save_state(self, trainer: Trainer) -> None:
        path = self._saver.save_state(trainer)
        if path is not None:
            self._on_event(Saved(path=path, kind="state"))

    def _restore(self, trainer: Trainer, state: ResumeState) -> None:
        self._saver.restore(trainer, state)
        self._history.losses[:] = state.losses
        self._history.lrs[:] = state.lrs

    def _trained(self, path: Path | None, *, steps: int, stopped: bool) -> Trained:
        return Trained(
            network=self._network, path=path, steps=steps, stopped=stopped, history=self._history
        )
