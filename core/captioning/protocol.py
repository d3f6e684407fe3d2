"""What every captioner is: pictures in, captions out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Captioner(Protocol):
    """A model that writes captions; it is read from the disk when it is first used.

    A picture's caption depends on the picture and the settings alone, not on its batch.
    """

    @property
    def name(self) -> str:
        """What to call it to the user."""
        ...

    @property
    def identity(self) -> str:
        """A text that differs where the model's files do."""
        ...

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture as the model wants it, so that no large picture waits in memory."""
        ...

    def caption(self, prepared: Sequence[np.ndarray]) -> list[str]:
        """One caption for each picture; a tagger's tags are joined by ", "."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerSource:
    """Where models lie and run.

    folders: looked through in this order; a download goes into the first. read_weights: all
    tensors of a weights file by name, without running anything that is in it.
    """

    folders: tuple[Path, ...]
    device: torch.device
    read_weights: Callable[[Path], dict[str, Tensor]]


def reason_of(error: BaseException) -> str:
    """The first line of an error of another package's, to be put between brackets."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else repr(error)
