"""Writing captions so that it can be taken back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError, FileError
from ..events import Finding
from .changes import CaptionChange, CaptionReport, Captions, FileTools
from .journal import Entry, Journal, to_bytes, to_text

BY_HAND = "by hand"  # stands in the journal where others have the digest of their settings


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the captions of one run; `settings` is the digest of what decided them."""

    folder: Path
    journal: Journal
    tools: FileTools
    settings: str

    def write(self, changes: list[CaptionChange]) -> None:
        """Note what is there, then write. Raises FileError."""
        entries = [self._entry(change) for change in changes]
        self.journal.add(entries)
        for change, entry in zip(changes, entries, strict=True):
            self.tools.write(change.file, to_bytes(entry.after))

    def was_written(self, picture: Path, file: Path, entry: Entry | None) -> bool:
        """Whether `entry` says that this run's settings wrote what now is in `file`."""
        return (
            entry is not None
            and entry.settings == self.settings
            and entry.stamp == stamp(picture)
            and content(file) == entry.after
        )

    def name(self, path: Path) -> str:
        """A path as the journal has it."""
        return path.relative_to(self.folder).as_posix()

    def _entry(self, change: CaptionChange) -> Entry:
        return Entry(
            run=self.journal.run,
            settings=self.settings,
            picture=self.name(change.picture),
            stamp=stamp(change.picture),
            file=self.name(change.file),
            before=content(change.file),
            after=f"{change.after}\n",
        )


def write_texts(captions: Captions, texts: Mapping[Path, str], tools: FileTools) -> CaptionReport:
    """Write captions by hand, of pictures in `captions`; equal ones are left alone.

    Line breaks become spaces. Raises DatasetError for a picture that is not in the folder.
    """
    items = {item.picture: item for item in captions.items}
    changes = []
    for picture, text in texts.items():
        item = items.get(picture)
        if item is None:
            raise DatasetError(
                f"{picture} is not among the pictures of {captions.folder}; read the captions again"
            )
        after = " ".join(text.split())
        if after != (item.text or ""):
            changes.append(
                CaptionChange(picture=picture, file=item.file, before=item.text, after=after)
            )
    journal = Journal(captions.folder, tools.write)
    Writer(captions.folder, journal, tools, BY_HAND).write(changes)
    return CaptionReport(
        folder=captions.folder,
        pictures=len(texts),
        changes=tuple(changes),
        unchanged=len(texts) - len(changes),
    )


def undo(folder: Path, tools: FileTools) -> CaptionReport:
    """Put back what the last run in `folder` changed; the next undo takes back the run before it.

    A caption that was changed since by other means is left as it is, and told of. Raises
    DatasetError where there is nothing to undo.
    """
    journal = Journal(folder, tools.write)
    entries = journal.last_run()
    if not entries:
        raise DatasetError(f"{folder} has no captioning to undo: {journal.path.name} names none")
    changes: list[CaptionChange] = []
    findings: list[Finding] = []
    for entry in entries:
        file = folder / entry.file
        now = content(file)
        if now == entry.after != entry.before:
            _put_back(file, entry.before, tools)
            changes.append(_change(folder, entry))
        elif now != entry.before:
            text = "the caption was changed since and is left as it is"
            findings.append(Finding(level="warning", text=text, path=file))
    journal.forget(entries)
    return CaptionReport(
        folder=folder,
        pictures=len(entries),
        changes=tuple(changes),
        unchanged=len(entries) - len(changes) - len(findings),
        kept=len(findings),
        findings=tuple(findings),
        undone=True,
    )


def _put_back(file: Path, before: str | None, tools: FileTools) -> None:
    if before is not None:
        tools.write(file, to_bytes(before))
        return
    try:
        file.unlink()
    except OSError as error:
        raise FileError(
            f"{file} can't be removed ({error.strerror or error}): check the folder's permissions"
        ) from error


def _change(folder: Path, entry: Entry) -> CaptionChange:
    return CaptionChange(
        picture=folder / entry.picture,
        file=folder / entry.file,
        before=legible(entry.after),
        after=None if entry.before is None else legible(entry.before),
    )


def legible(text: str) -> str:
    """A file's content as one line that can be shown."""
    return to_bytes(text).decode("utf-8", "replace").strip()


def content(file: Path) -> str | None:
    """What is in a caption file; None where there is none. Raises FileError."""
    try:
        return to_text(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(
            f"{file} can't be read ({error.strerror or error}): check its permissions"
        ) from error


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; zeros for a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
