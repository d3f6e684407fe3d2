"""What a running training tells its caller, and how the caller asks it to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something worth knowing about the dataset, the recipe or the result, or the file `path`."""

    level: Level
    text: str
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The true size of the work, before any of it: counts, bytes of the file and of memory."""

    steps: int
    epochs: int
    images: int
    buckets: int
    file_bytes: int
    memory_bytes: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted:
    """A phase ("text", "latents", "train", "save", "preview") begins; `total` counts its parts."""

    name: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseProgress:
    """`done` of `total` parts of a phase are done."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """An optimizer step was taken: `step` counts from 1, `images` is how many were seen so far."""

    step: int
    steps: int
    loss: float
    lr: float
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file is completely written and checked."""

    path: Path
    kind: Literal["network", "state", "grid", "page", "plot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewReady:
    """A picture made while training, after `step` steps, can be looked at."""

    path: Path
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDrawn:
    """A picture of a grid is drawn; places: (page, row, column) of every cell that shows it."""

    picture: Image.Image
    places: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The training is over; `path` is None where nothing was trained, `stopped` means early."""

    path: Path | None
    steps: int
    stopped: bool
    findings: tuple[Finding, ...]


Event = (
    Planned | PhaseStarted | PhaseProgress | StepDone | Saved | PreviewReady | CellDrawn | Finished
)
OnEvent = Callable[[Event], None]
StopFlag = Callable[[], bool]


def ignore(event: Event) -> None:
    """Listen to nothing."""


def never() -> bool:
    """Do not ask for a stop."""
    return False
