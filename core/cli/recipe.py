"""Write a recipe with every setting at its default, to edit and train."""

import argparse
import sys
from pathlib import Path

from ..config.recipe import DatasetConfig, Recipe
from ..errors import FileError
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop recipe`."""
    parser.add_argument("dataset", nargs="?", default="dataset", help="folder of the pictures")
    parser.add_argument("--output", type=Path, help="file to write; without it, print the recipe")


def run(options: argparse.Namespace) -> int:
    """Print or write the recipe."""
    recipe = Recipe(dataset=DatasetConfig(folder=options.dataset))
    if options.output is None:
        sys.stdout.write(recipe.to_json())
        return 0
    if options.output.exists():
        raise FileError(f"{options.output} exists; choose another name with --output")
    recipe.save(options.output)
    say(f"wrote {options.output}; set base.checkpoint in it to your model")
    return 0
