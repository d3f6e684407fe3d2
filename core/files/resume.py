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
from torch import Tensor

from ..errors import FileError
from ..log import logger
from .atomic import write_atomic
from .safetensors_file import read_header
from .serialise import content_hash, write_file
from .tensor_file import FormatError

FORMAT = "lora-loop resume state 3"
_SHA = "sha256"  # of the file as it is without this entry
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


_FACTS = {"recipe": str, "dataset": str, "base": str, "step": int, "images": int}
_SEQUENCES = ("losses", "lrs")


def save_state(network: Path, state: ResumeState) -> Path:
    """Write the newest state, keep the one before it. Raises FileError; then the old ones stay."""
    newest, previous = state_paths(network)
    tensors = dict(state.tensors)
    for name in _SEQUENCES:
        tensors[f"history.{name}"] = torch.tensor(getattr(state, name), dtype=torch.float64)
    facts = {name: getattr(state, name) for name in _FACTS}
    metadata = {"format": FORMAT, "facts": json.dumps(facts, sort_keys=True)}
    metadata[_SHA] = content_hash(tensors, metadata)

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
        if not _is_there(path):
            continue
        _require_readable(path)
        try:
            state = _read(path)
        except FileError as error:
            logger.warning("%s", error)
            problems[path] = str(error)
            continue
        for damaged in problems:
            _set_aside(damaged)
        return state
    if problems:
        raise FileError(
            f"no resume state is whole: {'; '.join(problems.values())}; start with --restart"
        )
    return None


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FileError(
            f"{path} can't be looked for ({error.strerror or error}); choose another output.folder"
        ) from error
    return True


def _require_readable(path: Path) -> None:
    """A file that can't be opened just now is not a damaged one: nothing is renamed."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise FileError(
            f"{path} can't be read ({error.strerror or error}); make it readable and go on again"
        ) from error


def _set_aside(damaged: Path) -> None:
    """Rename, so that the next state does not push it over the one that is still good."""
    aside = damaged.with_name(f"{damaged.name}.damaged")
    try:
        damaged.replace(aside)
    except OSError as error:
        raise FileError(
            f"{damaged} is damaged and can't be renamed to {aside.name} "
            f"({error.strerror or error}); remove it, then go on from the state before it"
        ) from error


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
        file = read_header(path)
        if file.metadata.get("format") != FORMAT:
            raise FileError(f"{path} is not a resume state that this version reads")
        tensors = {name: file.tensor(name) for name in file.places}
    except FormatError as error:
        raise FileError(f"{path} {error}") from error
    metadata = {key: text for key, text in file.metadata.items() if key != _SHA}
    if content_hash(tensors, metadata) != file.metadata.get(_SHA):
        raise FileError(f"{path} is damaged: its content is not what was written")
    facts = _facts(path, metadata.get("facts", ""))
    return ResumeState(**facts, **_history(path, tensors), tensors=tensors)


def _history(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Take the sequences out of `tensors`."""
    rows: dict[str, Any] = {}
    for name in _SEQUENCES:
        row = tensors.pop(f"history.{name}", torch.empty(()))
        if row.dim() != 1 or row.dtype != torch.float64:
            raise FileError(f"{path} is damaged: its {name} are not a row of numbers")
        rows[name] = tuple(row.tolist())
    return rows


def _facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: its facts are not readable ({error})") from error
    kinds = {name: type(value) for name, value in facts.items()} if isinstance(facts, dict) else {}
    if kinds != _FACTS or min(facts["step"], facts["images"]) < 0:
        raise FileError(f"{path} is damaged: its facts are not those of a training")
    return facts
