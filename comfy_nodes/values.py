"""What travels along the graph's links beside ComfyUI's own types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.config import DatasetConfig
from ..core.session import Axis, DrawSettings, Prompt, XYZRequest, block_of
from .words import Language

DATASET = "LORALOOP_DATASET"
OPTIONS = "LORALOOP_OPTIONS"
LORA = "LORALOOP_LORA"
AXES = "LORALOOP_AXES"

Values = Mapping[str, Mapping[str, Any]]
"""{section: {setting: value}} of a recipe, as far as somebody has set them."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of pictures as it will be trained. trigger: the words that its captions share."""

    config: DatasetConfig
    trigger: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that a chain of option nodes has gathered."""

    values: Values = field(default_factory=dict)
    start: str = ""

    def with_values(self, values: Values, start: str = "") -> Options:
        """These settings with others on top of them."""
        merged = {section: dict(own) for section, own in self.values.items()}
        for section, own in values.items():
            merged.setdefault(section, {}).update(own)
        return Options(merged, start or self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A network in memory, by the names and in the layout of a LoRA file.

    tensors: shared with the network that was trained, not copied. path: the file that holds the
    same numbers, in the program's own folder or wherever it was loaded from.
    """

    name: str
    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    trigger: str = ""

    def layers(self) -> list[str]:
        """The adapted layers, without the suffixes of their tensors."""
        return sorted({name.partition(".")[0] for name in self.tensors})

    def blocks(self) -> set[str]:
        """The blocks that hold adapted layers."""
        return {block for block in map(block_of, self.layers()) if block is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What changes along the axes of a grid. value: of blocks where no axis gives values."""

    x: Axis
    y: Axis
    z: Axis
    value: float = 0.0
    compare: bool = True

    def request(
        self, prompts: Sequence[Prompt], weights: str, seed: int, language: Language
    ) -> XYZRequest:
        """The grid; weights and seed hold where no axis changes them, X in weights is the values'.

        Several prompts are on a free axis. Raises ConfigError where none is free.
        """
        return XYZRequest(
            x=self.x,
            y=self.y,
            z=self.z,
            weights=weights,
            value=self.value,
            settings=DrawSettings(seed=seed),
            compare=self.compare,
            language=language,
        ).with_prompts(prompts)
