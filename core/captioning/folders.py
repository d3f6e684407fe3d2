"""Where captioners lie: a folder each, in model folders or in Hugging Face's own cache."""

from collections.abc import Iterator
from pathlib import Path

_CACHED = "models--"  # Hugging Face's cache: models--OWNER--NAME/snapshots/COMMIT/files


def places(folder: Path) -> Iterator[tuple[str, Path]]:
    """Folders in which a model's files may lie: `folder` and its children; each with its name."""
    if not folder.is_dir():
        return
    yield folder.name, folder
    for child in sorted(folder.iterdir()):
        if not child.is_dir():
            continue
        if child.name.startswith(_CACHED):
            name = child.name.removeprefix(_CACHED).split("--")[-1]
            for snapshot in sorted(child.glob("snapshots/*")):
                yield name, snapshot
        else:
            yield child.name, child


def file_stamp(path: Path | None) -> str:
    """Size and time of change of a file, to tell versions apart without reading gigabytes."""
    if path is None or not path.is_file():
        return "-"
    status = path.stat()
    return f"{status.st_size}.{status.st_mtime_ns}"
