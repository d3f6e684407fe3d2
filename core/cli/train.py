"""Train a LoRA from a recipe."""

import argparse
import json
from pathlib import Path
from typing import Any

from .. import session
from ..config.mapping import from_mapping, to_mapping
from ..config.recipe import Recipe
from ..errors import ConfigError
from .console import STOPPED, Console, say, stop_on_signals


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop train`."""
    parser.add_argument("recipe", type=Path, help="the recipe, a JSON file")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where a stopped run left off")
    again.add_argument("--restart", action="store_true", help="begin anew, forget a stopped run")
    parser.add_argument("--plan", action="store_true", help="only check and show the plan")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        dest="changes",
        help="change a setting of the recipe, e.g. --set network.rank=8",
    )


def run(options: argparse.Namespace) -> int:
    """Plan, load, train; Ctrl+C stops after the step and keeps what was trained."""
    recipe = with_changes(Recipe.load(options.recipe), options.changes)
    device = session.pick_device(options.device)
    start = "resume" if options.resume else "restart" if options.restart else "new"
    console = Console()
    try:
        session.resolve_precision(recipe.memory.precision, device)
        plan = session.make_plan(recipe, start, console)
        console(plan.event())
        if options.plan:
            return 0
        with stop_on_signals() as wanted:
            base = session.open_base(recipe.base, recipe.memory, device)
            trained = session.run(plan, base, start=start, on_event=console, stop=wanted.is_set)
            if trained.steps:
                session.write_loss_plot(trained, plan.path, console)
            if recipe.preview.prompts and trained.path and not trained.stopped:
                request = session.grid_request(recipe, trained.path.stem)
                grid = session.preview(base, trained.network, request, console, wanted.is_set)
                if not grid.stopped:
                    path = session.grid_path(trained.path)
                    session.write_grid(grid, path, console, overwrite=True)
    finally:
        console.close()
    if trained.stopped:
        say(f"Go on with: lora-loop train --resume {options.recipe}")
        return STOPPED
    return 0


def with_changes(recipe: Recipe, changes: list[str]) -> Recipe:
    """The recipe with "section.name=value" changes; a value is JSON, or else plain text."""
    mapping: dict[str, Any] = to_mapping(recipe)
    for change in changes:
        name, equals, text = change.partition("=")
        section, dot, setting = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set {change!r}: write it as section.name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if not isinstance(mapping.get(section), dict):
            raise ConfigError(f"--set {change!r}: the recipe has no section {section!r}")
        mapping[section][setting] = value
    return from_mapping(Recipe, mapping) if changes else recipe
