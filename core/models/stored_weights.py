"""A checkpoint's weights one at a time, by the paths that adapters have, without loading it all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from ..adapters.targets import find_layers
from .base_model import EMBEDDED, outline_checkpoint, resolve_facts
from .checkpoint import Checkpoint
from .families import Family
from .parts import Stored
from .sources import open_source

_VAE = "vae"


class StoredWeights:
    """The layers of a checkpoint that adapters change; each tensor is read when it is asked for.

    Raises CheckpointError for a file that is no model of a known family.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        path = EMBEDDED if str(checkpoint) == "embedded" else Path(checkpoint)
        self.checkpoint: Checkpoint = open_source(path)
        facts = resolve_facts(self.checkpoint, "auto", "auto")
        self._outline = outline_checkpoint(self.checkpoint, facts)
        self.family: Family = facts.family

    @property
    def path(self) -> Path:
        """The file."""
        return self.checkpoint.path

    @cached_property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that adapters change, on the meta device."""
        return {name: net for name, net in self._outline.networks.items() if name != _VAE}

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """Every layer by path, on the meta device."""
        return find_layers(self.parts)

    @cached_property
    def _names(self) -> Mapping[int, tuple[str, str]]:
        """The part and the own name of each layer."""
        return {
            id(module): (part, name)
            for part, network in self.parts.items()
            for name, module in network.named_modules()
        }

    def place(self, path: str, name: str = "weight") -> Stored:
        """Where the checkpoint has a layer's tensor."""
        part, module = self._names[id(self.layers[path])]
        return self._outline.parts[part].tensors[f"{module}.{name}"]

    def tensor(self, path: str, name: str = "weight") -> Tensor:
        """A layer's tensor as it is stored, in the shape that the layer has."""
        stored = self.place(path, name).read(self.checkpoint)
        return stored.reshape(self.layers[path].get_parameter(name).shape)
