"""Where captioners lie: a folder each, in model folders or in Hugging Face's own cache."""

from collections.abc import Iterator
from pathlib import Path

_CACHED = "models--"  # Hugging Face's cache: models--OWNER--NAME/snapshots/COMMIT/files


def places(folder: Path, depth: int = 2) -> Iterator[tuple[str, Path]]:
    """Folders in which a model's files may lie, each with its name: `folder` and those below it.

    Hosts keep models as models/KIND/NAME. Folders that can't be opened are passed over.
    """
    yield folder.name, folder
    for child in _folders(folder) if depth else ():
        if child.name.startswith(_CACHED):
            name = child.name.removeprefix(_CACHED).split("--")[-1]
            for snapshot in _folders(child / "snapshots"):
                yield name, snapshot
        else:
            yield from places(child, depth - 1)


def _folders(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [child for child in children if not child.name.startswith(".") and child.is_dir()]


def existing_path(text: str) -> Path | None:
    """The path that a user has written, where something is there; a name may be no path at all."""
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def file_stamp(path: Path | None) -> str:
    """Size and time of change of a file, to tell versions apart without reading gigabytes."""
    if path is None or not path.is_file():
        return "-"
    status = path.stat()
    return f"{status.st_size}.{status.st_mtime_ns}"
