"""What a graph of nodes does beside training: find, name and copy networks, lay out pictures."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .adapters.blocks import LENGTHS, ORDERS
from .adapters.presets import preset_names
from .config.output import check_name
from .config.recipe import Recipe
from .data.fingerprint import dataset_hash
from .files.atomic import free_path
from .files.network_file import WrittenFile, read_network, write_network
from .models.base_model import BaseModel
from .planner import Plan
from .preview.cells import without_network
from .preview.host_sheet import table_sheet
from .train.saving import recipe_hash
from .train.task import Task

__all__ = [
    "block_orders",
    "copy_network",
    "free_path",
    "named",
    "preset_names",
    "table_sheet",
    "training_key",
    "without_network",
]


def training_key(plan: Plan, base: BaseModel) -> str:
    """64 hex digits that two trainings share exactly when they train the same network."""
    pictures = plan.pictures
    task = Task(recipe=plan.recipe, pictures=pictures, resolution=plan.resolution, path=plan.path)
    parts = (
        recipe_hash(task, base.dtype),
        dataset_hash(pictures.dataset, pictures.buckets),
        base.identity,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def named(plan: Plan, name: str) -> Plan:
    """The plan under another output name, in the same folder."""
    check_name("output.name", name)
    recipe: Recipe = replace(plan.recipe, output=replace(plan.recipe.output, name=name))
    return replace(plan, recipe=recipe, path=plan.path.with_name(f"{name}.safetensors"))


def copy_network(
    source: Path,
    target: Path,
    precision: str,
    extra: Mapping[str, str],
    *,
    keep_metadata: bool = True,
) -> WrittenFile:
    """Write a LoRA file anew in another precision, under the first free name like `target`.

    extra: metadata that is set on top of the file's own, or alone. Raises FileError as reading and
    writing do.
    """
    file = read_network(source)
    own = file.metadata if keep_metadata else {}
    named_now = {"ss_output_name": target.stem} if keep_metadata else {}
    metadata = {**own, **named_now, **extra}
    return write_network(free_path(target), file.modules, metadata, precision)


def block_orders() -> dict[str, dict[int, tuple[str, ...]]]:
    """For each family the blocks of a vector by its length: those with attention, and all."""
    return {
        family: {length: ORDERS[length] for length in lengths}
        for family, lengths in LENGTHS.items()
    }
