"""What was written, and what was there before: one file in the dataset's folder.

A line of JSON for each caption, added before the caption is written, so that a run that is killed
at any moment can be gone on with and undone. Bytes that are no UTF-8 are kept as lone surrogates.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..log import logger

NAME = ".lora-loop-captions.jsonl"
KEPT_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One caption that a run wrote. picture, file: relative to the folder, with slashes.

    settings: digest of what decided the caption. stamp: the picture's size and time of change.
    before: the file's content, None where there was no file. after: the content that was written.
    """

    run: int
    settings: str
    picture: str
    stamp: tuple[int, int]
    file: str
    before: str | None
    after: str

    def line(self) -> str:
        """The entry as a line of the file."""
        return json.dumps(asdict(self)) + "\n"


def to_text(content: bytes) -> str:
    """Bytes as text that `to_bytes` turns back, whatever they are."""
    return content.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The inverse of `to_text`."""
    return text.encode("utf-8", "surrogateescape")


class Journal:
    """The journal of one folder; entries of the last `KEPT_RUNS` runs are kept."""

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None]) -> None:
        """Read the file, if there is one; `write` puts bytes at a path, whole or not at all."""
        self.path = folder / NAME
        self._write = write
        self._entries, whole = _read(self.path)
        self._run = max((entry.run for entry in self._entries), default=0) + 1
        oldest = self._run - KEPT_RUNS
        kept = [entry for entry in self._entries if entry.run > oldest]
        self._tidy = whole and len(kept) == len(self._entries)
        self._entries = kept

    @property
    def run(self) -> int:
        """The number of the run that begins."""
        return self._run

    def latest(self) -> dict[str, Entry]:
        """The newest entry of each picture."""
        return {entry.picture: entry for entry in self._entries}

    def last_run(self) -> list[Entry]:
        """The entries of the run before this one, as they were written."""
        last = max((entry.run for entry in self._entries), default=0)
        return [entry for entry in self._entries if entry.run == last]

    def add(self, entries: list[Entry]) -> None:
        """Write entries to the disk. Raises FileError."""
        if not entries:
            return
        self._entries += entries
        if not self._tidy:
            self._rewrite()
            return
        try:
            with self.path.open("a", encoding="ascii", newline="\n") as file:
                file.writelines(entry.line() for entry in entries)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(
                f"{self.path} can't be written ({error.strerror or error}): without it captions "
                "could not be undone; check the folder's permissions and the space on its disk"
            ) from error

    def forget(self, entries: Iterable[Entry]) -> None:
        """Take entries out of the file."""
        gone = {id(entry) for entry in entries}
        self._entries = [entry for entry in self._entries if id(entry) not in gone]
        self._rewrite()

    def _rewrite(self) -> None:
        text = "".join(entry.line() for entry in self._entries)
        self._write(self.path, text.encode("ascii"))
        self._tidy = True


def _read(path: Path) -> tuple[list[Entry], bool]:
    """The entries that can be read, and whether all of the file could be.

    The last line of a killed run may be cut off: its caption was not written yet.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], True
    except OSError as error:
        raise FileError(
            f"{path} can't be read ({error.strerror or error}): check its permissions, or move it "
            "away to begin a new one"
        ) from error
    entries = []
    broken = int(lines.pop() != b"")
    for line in lines:
        entry = _entry(line)
        if entry is None:
            broken += 1
        else:
            entries.append(entry)
    if broken:
        logger.warning("%s: %d lines can't be read and are left out", path, broken)
    return entries, not broken


def _entry(line: bytes) -> Entry | None:
    try:
        values: Any = json.loads(line)
        entry = Entry(**{**values, "stamp": tuple(values["stamp"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (entry.settings, entry.picture, entry.file, entry.after, entry.before or "")
    sound = all(isinstance(text, str) for text in texts) and isinstance(entry.run, int)
    return entry if sound and _stays_inside(entry.file) else None


def _stays_inside(name: str) -> bool:
    """Whether a name leads to no other folder and no hidden file; a stranger's dataset may try."""
    parts = name.split("/")
    return not any(part.startswith(".") or not part or set(part) & {"\\", ":"} for part in parts)
