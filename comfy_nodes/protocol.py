"""What the nodes need of ComfyUI; `host.py` gives it, tests give their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from ..core.session import BaseModel, LiveModel

Patches = Literal["left out", "part of the base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a MODEL and a CLIP say of themselves.

    clip_skip: 1 is the last layer. patches: how many weights of both have patches.
    """

    prediction: Literal["epsilon", "v"]
    zero_terminal_snr: bool
    clip_skip: int
    patches: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where a MODEL comes from. checkpoint: its file's name, empty where the graph doesn't say."""

    patches: Patches
    checkpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How ComfyUI's sampler draws; pixels are multiples of 8."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The three objects that a checkpoint loader puts out."""

    model: Any
    clip: Any
    vae: Any


class Progress(Protocol):
    """The bar, the text and the charts of one running node."""

    def bar(self, done: int, total: int, picture: Image.Image | None = None) -> None:
        """Move the bar, and show a picture on the node."""
        ...

    def say(self, text: str) -> None:
        """Show text on the node."""
        ...

    def send(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell the page about the node, for our own parts of it."""
        ...


class Host(Protocol):
    """The running ComfyUI."""

    cancelled: type[BaseException]
    """What is raised when the user has pressed Cancel."""

    def folder(self, kind: Literal["input", "output", "temp"]) -> Path:
        """One of ComfyUI's own folders."""
        ...

    def dataset_roots(self) -> Sequence[Path]:
        """The folders below which datasets may lie."""
        ...

    def lora_folder(self) -> Path:
        """Where new LoRA files go."""
        ...

    def lora_names(self) -> Sequence[str]:
        """The LoRA files that ComfyUI knows."""
        ...

    def lora_path(self, name: str) -> Path:
        """The file of one of them."""
        ...

    def model_folders(self, kind: str) -> Sequence[Path]:
        """ComfyUI's folders of one kind of model ("clip_vision", "wd14_tagger", ...)."""
        ...

    def room_for(self, count: int) -> torch.device:
        """Where ComfyUI computes, with room for a model of so many bytes made there if need be."""
        ...

    def sampler_names(self) -> Sequence[str]:
        """The samplers of a KSampler."""
        ...

    def scheduler_names(self) -> Sequence[str]:
        """The schedulers of a KSampler."""
        ...

    def progress(self, node: str | None) -> Progress:
        """The display of a running node."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the user has pressed Cancel."""
        ...

    def raise_if_cancelled(self) -> None:
        """Hand a pressed Cancel on to ComfyUI."""
        ...

    def family(self, model: Any) -> str:
        """ "sd1", "sd2" or "sdxl". Raises CheckpointError for a MODEL of another kind."""
        ...

    def facts(self, graph: Graph) -> Facts:
        """Look at a MODEL and a CLIP. Raises CheckpointError for what isn't trained."""
        ...

    def borrow(
        self, graph: Graph, source: Source
    ) -> AbstractContextManager[tuple[LiveModel, torch.device]]:
        """The weights for the length of a with block, in which gradients may be computed.

        And the device on which they are wanted.
        """
        ...

    def patched(
        self, graph: Graph, tensors: Mapping[str, Tensor], strength: Callable[[str], float]
    ) -> Graph:
        """MODEL and CLIP with a LoRA through patches that share its tensors.

        strength: of each adapted layer, by its key. MODEL and CLIP may be None each.
        """
        ...

    def draw(
        self,
        graph: Graph,
        prompts: Sequence[tuple[str, str]],
        sampling: Sampling,
        on_step: Callable[[Image.Image | None], None],
    ) -> list[Image.Image]:
        """One picture for each (prompt, negative prompt), as a KSampler draws it.

        The picture with index i has the seed `sampling.seed` + i.
        """
        ...

    def draw_live(
        self,
        base: BaseModel,
        graph: Graph,
        prompts: Sequence[tuple[str, str]],
        sampling: Sampling,
    ) -> list[Image.Image]:
        """The same while MODEL and CLIP are borrowed: ComfyUI's sampler on our network as it is.

        Nothing of ComfyUI is loaded, patched or moved.
        """
        ...

    def serve(self, path: str, answer: Callable[[Mapping[str, str]], Mapping[str, Any]]) -> None:
        """Answer GET requests to `path` with JSON; a TrainerError becomes {"error": ...}."""
        ...
