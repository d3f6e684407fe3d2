"""Trainings that were stopped, or ended with their program, and can be gone on with."""

import logging
from pathlib import Path

from ..core import session
from ..core.config import Recipe
from ..core.errors import FileError, TrainerError

logger = logging.getLogger("lora_loop")


class StoppedTrainings:
    """Keeps the recipe of each training that has begun, until its file is finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begun(self, recipe: Recipe) -> None:
        """Keep a recipe, so that its training can go on after whatever may happen."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self._folder} can't be made: {error}; make it writable") from error
        recipe.save(self._folder / f"{recipe.output.name}.json")

    def finished(self, recipe: Recipe) -> None:
        """Forget a training that is over, unless it left something to go on with."""
        if not session.has_state(_network(recipe)):
            (self._folder / f"{recipe.output.name}.json").unlink(missing_ok=True)

    def waiting(self) -> dict[str, Recipe]:
        """The recipes that can be gone on with, by name."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            recipe = _read(path)
            if recipe is not None and session.has_state(_network(recipe)):
                found[recipe.output.name] = recipe
        return found


def _network(recipe: Recipe) -> Path:
    return Path(recipe.output.folder).expanduser() / f"{recipe.output.name}.safetensors"


def _read(path: Path) -> Recipe | None:
    try:
        return Recipe.load(path)
    except TrainerError as error:
        logger.warning("a stopped training can't be offered: %s", error)
        return None
