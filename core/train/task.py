"""What a training is given."""

from dataclasses import dataclass
from pathlib import Path

from ..config.recipe import Recipe
from .encode import Pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The recipe, the pictures, and where the network file goes; resolution in pixels."""

    recipe: Recipe
    pictures: Pictures
    resolution: int
    path: Path
