"""What lies in a folder, and what kohya's `N_name` folder names say."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..events import Finding, Level
from .decode import OTHER_PICTURES, supported_suffixes

NAME = re.compile(r"(\d+)_(.*)", re.DOTALL)
MOST_REPEATS = 9999  # more digits are a date or a running number


@dataclass(frozen=True, slots=True)
class Listing:
    """One folder's content, hidden files left out, each part sorted by name."""

    pictures: tuple[Path, ...]
    other_pictures: tuple[Path, ...]
    files: tuple[Path, ...]
    folders: tuple[Path, ...]


def list_folder(path: Path) -> Listing:
    """Look into one folder; pictures are told by their suffix alone. Raises OSError."""
    kinds = supported_suffixes()
    pictures: list[Path] = []
    others: list[Path] = []
    files: list[Path] = []
    folders: list[Path] = []
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
        suffix = entry.suffix.lower()
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir():
            folders.append(entry)
        elif suffix in kinds:
            pictures.append(entry)
        elif suffix in OTHER_PICTURES:
            others.append(entry)
        elif entry.is_file():
            files.append(entry)
    return Listing(tuple(pictures), tuple(others), tuple(files), tuple(folders))


def count_pictures(path: Path) -> int:
    """Pictures in the folder itself; 0 where it can't be opened."""
    try:
        return len(list_folder(path).pictures)
    except OSError:
        return 0


def split_name(name: str) -> tuple[int, str] | None:
    """Repeats and concept of a folder called `10_momo`; None for other names and for dates."""
    match = NAME.fullmatch(name)
    if match is None or int(match[1]) > MOST_REPEATS:
        return None
    return int(match[1]), match[2].strip()


def legible(text: str | Path) -> str:
    """`text` with question marks for what can't be encoded.

    File names of another encoding (archives unpacked on Linux) hold such letters; printing them,
    drawing them or looking them up in a vocabulary would fail.
    """
    return str(text).encode("utf-8", errors="replace").decode("utf-8")


def note(level: Level, text: str, path: Path) -> Finding:
    """A finding about `path` whose text can be printed, whatever names are in it."""
    return Finding(level=level, text=legible(text), path=path)


def in_words(count: int, noun: str = "picture") -> str:
    """`1 picture`, `14 pictures`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def name_some(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
