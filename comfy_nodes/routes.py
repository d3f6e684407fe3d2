"""What the parts of the page in `web/` ask for, as plain functions of a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.config import DatasetConfig
from ..core.errors import ConfigError
from ..core.session import BlockWeights, graphwork
from . import door
from .dataset_nodes import looked_at
from .places import dataset_folder, subfolders
from .showing import shown_images

Query = Mapping[str, str]


def add_routes() -> None:
    """Have the running ComfyUI answer them."""
    for path, answer in ANSWERS.items():
        door.host().serve(path, answer)


def blocks(query: Query) -> dict[str, Any]:
    """The blocks of each length of vector, and the presets of a family as ratios by block."""
    family = query.get("family", "sd1")
    orders = graphwork.block_orders()
    if family not in orders:
        raise ConfigError(f"family is {family!r}; it must be one of {', '.join(orders)}")
    presets = {
        name: dict(BlockWeights.parse(name, family).ratios)
        for name in graphwork.preset_names(family)
    }
    return {"family": family, "orders": orders[family], "presets": presets}


def vector(query: Query) -> dict[str, Any]:
    """Block weights as a user writes them, by block."""
    seed = query.get("seed", "1")
    if not seed.isdecimal():
        raise ConfigError(f"seed is {seed!r}; it must be a whole number")
    weights = BlockWeights.parse(query.get("text", ""), query.get("family", "sd1"), seed=int(seed))
    return {"blocks": dict(weights.ratios), "vector": weights.text()}


def folders(_query: Query) -> dict[str, Any]:
    """The folders that LoadDataset may be given, below ComfyUI's input."""
    return {"folders": subfolders(door.host().folder("input"))}


def dataset(query: Query) -> dict[str, Any]:
    """A dataset's report and sheet, before anything is queued."""
    host = door.host()
    resolution = query.get("resolution", "0")
    if not resolution.isdecimal():
        raise ConfigError(f"resolution is {resolution!r}; it must be a whole number")
    folder = dataset_folder(host, query.get("folder", ""))
    report = looked_at(host, DatasetConfig(folder=folder, resolution=int(resolution)))
    sheet = shown_images(host, [report.sheet], "dataset")[0]
    findings = [{"level": found.level, "text": found.text} for found in report.findings]
    return {"text": report.text, "sheet": sheet, "findings": findings}


ANSWERS = {
    "/lora_loop/blocks": blocks,
    "/lora_loop/vector": vector,
    "/lora_loop/folders": folders,
    "/lora_loop/dataset": dataset,
}
