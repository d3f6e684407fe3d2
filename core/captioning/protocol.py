"""What every captioner is: pictures in, captions out."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


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
