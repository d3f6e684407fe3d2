"""What a job writes: the network file, and resume states that are bound to what they come from."""

import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from ..adapters.network import Network
from ..config.mapping import to_mapping
from ..data.fingerprint import dataset_hash
from ..errors import FileError
from ..files.atomic import free_path
from ..files.metadata import training_metadata
from ..files.names import kohya_key
from ..files.network_file import Module, WrittenFile, file_tensors, write_network
from ..files.resume import ResumeState, save_state
from ..log import logger
from ..models.base_model import BaseModel
from .effect import require_effect
from .facts import base_hashes, run_facts
from .history import History
from .task import Task
from .trainer import Trainer

_FACTOR = "factor."
# settings that change nothing themselves: paths, and how memory is asked for
_BOUND_BY_CONTENT = {
    "dataset": ("folder",),
    "base": ("checkpoint", "vae"),
    "memory": ("cuda_graphs", "keep_memory"),
}


class Saver:
    """Writes and reads back what a training is.

    All that is needed of other files is read at the start: hours later they may be gone.
    """

    def __init__(self, task: Task, base: BaseModel, network: Network, history: History) -> None:
        self._task, self._base, self._network, self._history = task, base, network, history
        self._hashes = base_hashes(base)
        self._bound_to = (
            recipe_hash(task, base.dtype),
            dataset_hash(task.pictures.dataset, task.pictures.buckets),
            base.identity,
        )

    def require_same(self, state: ResumeState) -> None:
        """Raise FileError that names what changed since `state` was written."""
        state.require_same(*self._bound_to)

    def write_network(self, trainer: Trainer, target: Path) -> WrittenFile:
        """Write to `target`; where that fails, to the system's temporary folder, and say so.

        The file gets its name only after it was read back and tried on the base model.
        """
        family, weights = self._base.family.key, self._network.weights()
        modules: dict[str, Module] = {
            kohya_key(path, family): (own.down_RI, own.up_OR, own.alpha)
            for path, own in weights.items()
        }
        precision = self._task.recipe.output.precision
        file_tensors(modules, precision)  # what can't be stored can't be stored elsewhere either
        facts = run_facts(self._base, self._hashes, self._task, trainer, target.stem)
        metadata = training_metadata(self._task.recipe, facts)
        write = partial(
            write_network,
            modules=modules,
            metadata=metadata,
            precision=precision,
            check=partial(require_effect, self._base),
        )
        try:
            return write(target)
        except FileError as error:
            refuge = free_path(Path(tempfile.gettempdir()) / target.name)
            try:
                write(refuge)
            except FileError:
                raise error from None
            raise FileError(f"{error}. What was trained is safe in {refuge}: move it") from error

    def save_state(self, trainer: Trainer) -> Path | None:
        """Write a state; None, and the last one stays, where factors are no numbers any more."""
        recipe, dataset, base = self._bound_to
        factors = {
            f"{_FACTOR}{name}": parameter.detach()
            for name, parameter in self._network.named_parameters().items()
        }
        if not all(bool(torch.isfinite(factor).all()) for factor in factors.values()):
            logger.warning("the factors are not finite any more: the last good state is kept")
            return None
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
        return save_state(self._task.path, state)

    def restore(self, trainer: Trainer, state: ResumeState) -> None:
        """Put factors and trainer back to where the state was written."""
        self._network.load_parameters(
            {
                name.removeprefix(_FACTOR): tensor
                for name, tensor in state.tensors.items()
                if name.startswith(_FACTOR)
            }
        )
        trainer.restore(state.step, state.images, dict(state.tensors))


def recipe_hash(task: Task, compute: torch.dtype) -> str:
    """SHA-256 of all settings that change what is trained, automatic ones as they turned out.

    Not of where files lie (they are bound by content), of previews, or of what is written.
    """
    settings = to_mapping(task.recipe)
    for section in ("output", "preview"):
        del settings[section]
    for section, names in _BOUND_BY_CONTENT.items():
        for name in names:
            del settings[section][name]
    settings["dataset"]["resolution"] = task.resolution
    settings["memory"]["precision"] = str(compute)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
