"""What a captioning did to each caption, or would do."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from PIL import Image

from ..events import Finding
from .rules import split_tags, tag_counts, tag_key


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureCaption:
    """A picture, the file its caption is or would be in, and the caption; None where none is."""

    picture: Path
    file: Path
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """All captions of a folder."""

    folder: Path
    items: tuple[PictureCaption, ...]
    findings: tuple[Finding, ...] = ()

    def tags(self) -> dict[str, int]:
        """In how many captions each tag is, the most frequent first."""
        return tag_counts(item.text for item in self.items if item.text)

    def with_tag(self, tag: str) -> tuple[Path, ...]:
        """The pictures whose captions have this tag."""
        key = tag_key(tag)
        return tuple(
            item.picture
            for item in self.items
            if item.text and key in map(tag_key, split_tags(item.text))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionChange:
    """One caption before and after; `before` is None where there was none, `after` likewise."""

    picture: Path
    file: Path
    before: str | None
    after: str | None

    @property
    def added(self) -> tuple[str, ...]:
        """Tags that were not there before."""
        return _without(self.after, self.before)

    @property
    def removed(self) -> tuple[str, ...]:
        """Tags that are there no more."""
        return _without(self.before, self.after)

    def diff(self, folder: Path) -> str:
        """A unified diff, with names relative to `folder`."""
        name = self.file.relative_to(folder).as_posix()
        lines = unified_diff(
            [] if self.before is None else [self.before],
            [] if self.after is None else [self.after],
            "/dev/null" if self.before is None else name,
            "/dev/null" if self.after is None else name,
            lineterm="",
        )
        return "\n".join(lines)


def _without(text: str | None, other: str | None) -> tuple[str, ...]:
    known = {tag_key(tag) for tag in split_tags(other or "")}
    return tuple(tag for tag in split_tags(text or "") if tag_key(tag) not in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionReport:
    """What became of the pictures: each is in one of the counts, in `changes` or `unreadable`.

    kept: had a caption, which was to be kept. unchanged: the caption would be the same.
    done_before: written by the same settings in an earlier run. waiting: not come to, for a stop.
    """

    folder: Path
    pictures: int
    changes: tuple[CaptionChange, ...] = ()
    kept: int = 0
    unchanged: int = 0
    done_before: int = 0
    unreadable: int = 0
    waiting: int = 0
    findings: tuple[Finding, ...] = ()
    dry_run: bool = False
    undone: bool = False

    @property
    def stopped(self) -> bool:
        """Whether it was stopped before all pictures were done."""
        return self.waiting > 0

    def summary(self) -> str:
        """The counts as one line of text."""
        verb = "would be written" if self.dry_run else "put back" if self.undone else "written"
        counts = {
            f"captions {verb}": len(self.changes),
            "kept": self.kept,
            "the same as before": self.unchanged,
            "done by an earlier run": self.done_before,
            "unreadable": self.unreadable,
            "not come to": self.waiting,
        }
        parts = [f"{number} {what}" for what, number in counts.items() if number]
        return f"{self.pictures} pictures: {', '.join(parts) or 'nothing to do'}"

    def diff(self) -> str:
        """All changes as one unified diff."""
        return "\n".join(change.diff(self.folder) for change in self.changes)


@dataclass(frozen=True, slots=True)
class FileTools:
    """Reading pictures and writing files, which are other rooms' work.

    decode: the upright RGB picture; raises DatasetError that says what is wrong with the file.
    write: puts the bytes at the path, whole or not at all, over what is there.
    """

    decode: Callable[[Path], Image.Image]
    write: Callable[[Path, bytes], None]
