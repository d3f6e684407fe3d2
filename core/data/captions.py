"""Caption files: finding the one that belongs to a picture, reading it whatever its encoding."""

import codecs
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DatasetError
from .decode import SUFFIXES

KNOWN_EXTENSIONS = (".txt", ".caption")
MAX_BYTES = 1 << 16
# Tried in turn. GB2312 needs pairs of high bytes, which Western text hardly has.
ENCODINGS = {"utf-8": "utf-8-sig", "gb2312": "gb2312", "cp1252": "cp1252"}

Note = Literal["lines", "encoding", "long", "nul"]


@dataclass(frozen=True, slots=True)
class CaptionText:
    """One line of text and what had to be done for it: `notes`, and `encoding` if not UTF-8."""

    text: str
    encoding: str
    notes: tuple[Note, ...]


def checked_extension(extension: str) -> str:
    """The caption extension in lower case and with its dot; DatasetError where it can't be one."""
    name = extension.strip().lower().lstrip(".")
    if not name or "/" in name or "\\" in name or f".{name}" in SUFFIXES:
        raise DatasetError(
            f"dataset.caption_extension is {extension!r}; it must be the extension of text files, "
            "such as '.txt' or '.caption'"
        )
    return f".{name}"


class CaptionFiles:
    """The caption files of one folder, found by a picture's stem.

    Stems are compared in Unicode's composed form: macOS writes decomposed names into archives.
    """

    def __init__(self, files: Iterable[Path], extension: str) -> None:
        self._extensions = (extension, *(e for e in KNOWN_EXTENSIONS if e != extension))
        self._files = {
            self._key(path.stem, path.suffix): path
            for path in files
            if path.suffix.lower() in self._extensions
        }
        self._used: set[Path] = set()

    def of(self, picture: Path) -> Path | None:
        """The caption file of `picture`, the wanted extension first."""
        for extension in self._extensions:
            path = self._files.get(self._key(picture.stem, extension))
            if path is not None:
                self._used.add(path)
                return path
        return None

    def is_wanted(self, caption: Path) -> bool:
        """Whether `caption` has the extension that was asked for."""
        return caption.suffix.lower() == self._extensions[0]

    def unused(self) -> list[Path]:
        """Files of the wanted extension that no picture has asked for."""
        return [
            path for path in self._files.values() if self.is_wanted(path) and path not in self._used
        ]

    @staticmethod
    def _key(stem: str, extension: str) -> tuple[str, str]:
        return unicodedata.normalize("NFC", stem), extension.lower()


def read_caption(path: Path) -> CaptionText:
    """Read a caption file as one line: white space trimmed, several lines joined with commas.

    UTF-8 with or without a mark, UTF-16 with a mark, else GB2312 or Windows-1252. Raises OSError.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    notes: list[Note] = []
    if len(data) > MAX_BYTES:
        notes.append("long")
        data = data[:MAX_BYTES]
    text, encoding = _decoded(data)
    if encoding != "utf-8":
        notes.append("encoding")
    if "\0" in text:
        notes.append("nul")
        text = text.replace("\0", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        notes.append("lines")
        lines = [line.rstrip(", ") for line in lines]
    return CaptionText(", ".join(lines), encoding, tuple(notes))


def _decoded(data: bytes) -> tuple[str, str]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), "utf-16"
    whole = len(data) < MAX_BYTES  # else the end may lie inside a letter
    for encoding, codec in ENCODINGS.items():
        with suppress(UnicodeDecodeError):
            return codecs.getincrementaldecoder(codec)().decode(data, final=whole), encoding
    return data.decode("cp1252", errors="replace"), "cp1252"
