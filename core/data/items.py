"""What a scan yields: pictures with their captions."""

from dataclasses import dataclass
from pathlib import Path

from ..events import Finding


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One picture that can be trained on.

    caption: what it is trained with, the concept where it has none of its own. repeats: how often
    it is seen in an epoch. width, height: pixels after the EXIF orientation. alpha: parts of it
    are transparent. sha256: of the file's bytes.
    """

    path: Path
    caption: str
    has_caption: bool
    repeats: int
    concept: str
    width: int
    height: int
    alpha: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable pictures, ordered by folder and file name, and what was odd on the way."""

    root: Path
    items: tuple[ImageItem, ...]
    findings: tuple[Finding, ...]

    @property
    def captions(self) -> list[str]:
        """The caption of every item, in the order of the items."""
        return [item.caption for item in self.items]
