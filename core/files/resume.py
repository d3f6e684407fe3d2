"""Resume states: all that a training needs to go on as if it had never stopped.

A state is one file in the safetensors format, `NAME.resume-state` beside the network it will become
(hosts would list a `.safetensors` as a LoRA). The one before it is kept as
`NAME.resume-state-previous`, so that one good state is there at any instant, whatever happens while
the next is being written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FileError
from ..log import logger
from .atomic import write_atomic
from .serialise import tensor_hash, write_file

FORMAT = "lora-loop resume state 1"
_BOUND_TO = {"recipe": "the recipe", "dataset": "the dataset", "base": "the base model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeState:
    """A position in a training.

    recipe, dataset, base: hashes of what the run depends on. step, images: taken and seen so far.
    losses, lrs: one for each step. tensors: factors and the optimizer's numbers by name.
    """

    recipe: str
    dataset: str
    base: str
    step: int
    images: int
    losses: tuple[float, ...]
    lrs: tuple[float, ...]
    tensors: Mapping[str, Tensor]

    def require_same(self, recipe: str, dataset: str, base: str) -> None:
        """Raise FileError that names whatever is not what the state was made with."""
        now = {"recipe": recipe, "dataset": dataset, "base": base}
        changed = [words for key, words in _BOUND_TO.items() if now[key] != getattr(self, key)]
        if changed:
            raise FileError(
                f"the stopped training (step {self.step}) can't go on: {' and '.join(changed)} "
                "changed since; put that back to go on, or start anew with --restart"
            )


def state_paths(network: Path) -> tuple[Path, Path]:
    """Where the newest and the previous state of the network file `network` lie."""
    newest = network.with_name(f"{network.stem}.resume-state")
    return newest, newest.with_name(f"{newest.name}-previous")


_SEQUENCES = ("losses", "lrs")


def save_state(network: Path, state: ResumeState) -> Path:
    """Write the newest state, keep the one before it. Raises FileError; then the old ones stay."""
    newest, previous = state_paths(network)
    tensors = dict(state.tensors)
    for name in _SEQUENCES:
        tensors[f"history.{name}"] = torch.tensor(getattr(state, name), dtype=torch.float64)
    facts = {name: getattr(state, name) for name in ("recipe", "dataset", "base", "step", "images")}
    metadata = {
        "format": FORMAT,
        "facts": json.dumps(facts, sort_keys=True),
        "sha256": tensor_hash(tensors),
    }

    def write(draft: Path) -> None:
        write_file(draft, tensors, metadata)
        _read(draft)
        if newest.exists():
            newest.replace(previous)

    write_atomic(newest, write, overwrite=True)
    return newest


def load_state(network: Path) -> ResumeState | None:
    """The last good state of the network file `network`, or None where there is none at all.

    A damaged newest state is passed over for the previous one. Raises FileError when all are
    damaged.
    """
    problems: dict[Path, str] = {}
    for path in state_paths(network):
        if not path.exists():
            continue
        try:
            state = _read(path)
        except FileError as error:
            logger.warning("%s", error)
            problems[path] = str(error)
            continue
        for damaged in problems:
            # Aside, so that the next state does not push it over the one that is still good.
            damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        return state
    if problems:
        raise FileError(
            f"no resume state is whole: {'; '.join(problems.values())}; start with --restart"
        )
    return None


def forget_states(network: Path) -> None:
    """Remove the states: the training is over, or begins anew."""
    for path in state_paths(network):
        _forget(path)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s is not needed any more but can't be removed: %s", path, error)


def _read(path: Path) -> ResumeState:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: a mapped file can't be replaced on Windows, and would stay in memory.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise FileError(f"{path} is not a resume state that this version reads")
        if tensor_hash(tensors) != metadata.get("sha256"):
            raise FileError(f"{path} is damaged: its numbers are not those that were written")
        facts = json.loads(metadata["facts"])
        history: dict[str, Any] = {
            name: tuple(tensors.pop(f"history.{name}").tolist()) for name in _SEQUENCES
        }
        return ResumeState(**facts, **history, tensors=tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged: {error}") from error
