"""What a grid's PNG holds to be drawn again, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from PIL import Image, UnidentifiedImageError

from ..adapters.block_weights import BlockWeights
from ..adapters.live import LiveNetwork
from ..config.mapping import from_mapping
from ..diffusion.seeds import ON_CPU
from ..errors import ConfigError, FileError, TrainerError
from ..events import Finding
from ..files.serialise import tensor_hash
from ..models.base_model import BaseModel
from .difference import THRESHOLD
from .metadata import parameters_text
from .sampling import DrawSettings, Prompt
from .table import Cell, Label, Language, Reference, Table

_KEY = "lora_loop"
_VERSION = 2
_Percents = Sequence[Sequence[Sequence[float | None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRecord:
    """A grid as its file holds it, to be drawn again.

    networks: hash of the weights by the name of the file, "" for the one that was in memory.
    base, base_identity: name and hash of the base model. seeding: what its seeds meant.
    """

    table: Table
    networks: Mapping[str, str]
    base: str
    base_identity: str
    seeding: str

    def findings(self, base: BaseModel, network: LiveNetwork) -> tuple[Finding, ...]:
        """Say where what is there now is not what the grid was drawn with."""
        texts = []
        if base.identity != self.base_identity:
            texts.append(f"the base model {base.name} is not the one of this grid ({self.base})")
        if network_hash(network) != self.networks.get("", ""):
            texts.append(f"the network has other weights than {self.table.network_name} had then")
        if base.seeding.name != self.seeding:
            texts.append(
                f"a seed means other noise here ({base.seeding.name}) than it did for this grid "
                f"({self.seeding})"
            )
        return tuple(
            Finding(level="warning", text=f"{text}: the pictures will differ") for text in texts
        )


def network_hash(network: LiveNetwork) -> str:
    """Hash a network's weights, by name."""
    return tensor_hash(network.tensors())


def grid_metadata(
    base: BaseModel,
    table: Table,
    networks: Mapping[str, LiveNetwork],
    percents: _Percents,
) -> dict[str, str]:
    """Give the PNG's texts: the first cell in the WebUI's words, and all of it as JSON."""
    settings = table.settings
    width, height = settings.size(base)
    cells = [cell for _, cell in table.places()]
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    weights = list(dict.fromkeys(cell.weights for cell in cells))
    facts = {
        "kind": "block-weight grid",
        "version": _VERSION,
        "base": {"name": base.name, "identity": base.identity},
        "seeding": base.seeding.name,
        "network": table.network_name,
        "networks": {Path(name).name: network_hash(own) for name, own in networks.items()},
        "settings": asdict(settings) | {"width": width, "height": height},
        "prompts": [asdict(prompt) for prompt in prompts],
        "weights": [
            {
                "label": given.label,
                "blocks": dict(given.ratios),
                "elements": ",".join(rule.text() for rule in given.elements),
            }
            for given in weights
        ],
        "columns": table.columns,
        "rows": table.rows,
        "pages": table.pages,
        "cells": [
            [[_cell(cell, prompts, weights) for cell in row] for row in page]
            for page in table.cells
        ],
        "compare": table.compare,
        "language": table.language,
        "changed_percent": percents,
        "changed_threshold": THRESHOLD,
    }
    return {
        "parameters": parameters_text(cells[0].prompt, settings, base, cells[0].seed),
        _KEY: json.dumps(facts, ensure_ascii=False),
    }


def _cell(cell: Cell, prompts: Sequence[Prompt], weights: Sequence[BlockWeights]) -> dict[str, Any]:
    """Write a cell; prompts and weights by their place in the lists."""
    return {
        "prompt": prompts.index(cell.prompt),
        "seed": cell.seed,
        "weights": weights.index(cell.weights),
        "unet": cell.unet,
        "text_encoder": cell.text_encoder,
        "network": Path(cell.network).name,
    }


def read_grid(path: Path) -> GridRecord:
    """Read what a grid's PNG says about itself. FileError where it is none."""
    try:
        with Image.open(path) as image:
            text = image.info.get(_KEY)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise FileError(f"{path} can't be read as a picture ({error})") from error
    if not isinstance(text, str):
        raise FileError(
            f"{path} holds no settings of a grid: give a PNG that `lora-loop preview` wrote, not a "
            "copy that another program has saved"
        )
    try:
        return _record(json.loads(text))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, TrainerError) as error:
        raise FileError(f"{path}: its settings of a grid are damaged ({error})") from error


def _record(facts: Mapping[str, Any]) -> GridRecord:
    if facts.get("kind") != "block-weight grid" or facts.get("version") != _VERSION:
        raise ConfigError("they are of another version or kind; draw the grid anew")
    prompts = [from_mapping(Prompt, given) for given in facts["prompts"]]
    weights = [_weights(given) for given in facts["weights"]]
    table = Table(
        columns=_labels(facts["columns"]),
        rows=_labels(facts["rows"]),
        pages=_labels(facts["pages"]),
        cells=tuple(
            tuple(tuple(_read_cell(cell, prompts, weights) for cell in row) for row in page)
            for page in facts["cells"]
        ),
        settings=from_mapping(DrawSettings, facts["settings"]),
        network_name=str(facts["network"]),
        compare=_one_of(facts["compare"], Reference),
        language=_one_of(facts["language"], Language),
    )
    return GridRecord(
        table=table,
        networks={str(name): str(own) for name, own in facts["networks"].items()},
        base=str(facts["base"]["name"]),
        base_identity=str(facts["base"]["identity"]),
        seeding=str(facts.get("seeding", ON_CPU.name)),  # what all were once
    )


def _read_cell(
    cell: Mapping[str, Any], prompts: Sequence[Prompt], weights: Sequence[BlockWeights]
) -> Cell:
    return Cell(
        prompt=prompts[int(cell["prompt"])],
        seed=int(cell["seed"]),
        weights=weights[int(cell["weights"])],
        unet=float(cell["unet"]),
        text_encoder=float(cell["text_encoder"]),
        network=str(cell["network"]),
    )


def _weights(given: Mapping[str, Any]) -> BlockWeights:
    ratios = tuple((str(block), float(ratio)) for block, ratio in given["blocks"].items())
    found = BlockWeights(ratios).with_elements(str(given.get("elements", "")))
    return replace(found, label=str(given["label"]))


def _one_of(value: Any, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise ConfigError(f"{value!r} is none of {get_args(allowed)}")
    return value


def _labels(given: Sequence[Sequence[str]]) -> tuple[Label, ...]:
    return tuple(Label(str(title), str(note)) for title, note in given)
