"""Reading a dataset: every picture decoded once, every caption read, every oddity reported."""

from pathlib import Path
from typing import overload

from ..errors import DatasetError
from ..events import Finding, OnEvent, PhaseProgress, PhaseStarted, StopFlag, ignore, never
from .captions import checked_extension
from .folder_reader import FolderReader
from .folders import find_concepts
from .items import Dataset, ImageItem
from .listing import legible, note

__all__ = ["Dataset", "ImageItem", "scan"]

PHASE = "scan"


@overload
def scan(folder: Path | str, caption_extension: str = ..., on_event: OnEvent = ...) -> Dataset: ...
@overload
def scan(
    folder: Path | str, caption_extension: str = ..., on_event: OnEvent = ..., *, stop: StopFlag
) -> Dataset | None: ...
def scan(
    folder: Path | str,
    caption_extension: str = ".txt",
    on_event: OnEvent = ignore,
    *,
    stop: StopFlag = never,
) -> Dataset | None:
    """Read the dataset in `folder`: kohya's `N_name` folder, its parent, or any with pictures.

    Files that can't be used are left out with a finding. None where `stop()` asked for an end.
    Raises DatasetError where nothing is left, or where the folder is the wrong one.
    """
    root = Path(folder)
    root = root.expanduser() if root.parts[:1] == ("~",) else root
    extension = checked_extension(caption_extension)
    concepts, findings = find_concepts(root)
    readers = [FolderReader(concept, extension) for concept in concepts]
    work = [(reader, path) for reader in readers for path in reader.pictures]
    items: list[ImageItem] = []
    on_event(PhaseStarted(name=PHASE, total=len(work)))
    for done, (reader, path) in enumerate(work, 1):
        if stop():
            return None
        item = reader.read(path)
        if item is not None:
            items.append(item)
        on_event(PhaseProgress(name=PHASE, done=done, total=len(work)))
    for reader in readers:
        findings += reader.findings()
    if not items:
        raise DatasetError(_none_usable(root, [path for _, path in work], findings))
    return Dataset(root, tuple(items), (*findings, *_duplicates(items)))


def _none_usable(root: Path, pictures: list[Path], findings: list[Finding]) -> str:
    broken = set(pictures)
    reasons = [finding.text for finding in findings if finding.path in broken]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return (
        f"dataset.folder: none of the {len(pictures)} picture files in {legible(root)} can be "
        f"used: {'; '.join(reasons[:3])}{more}"
    )


def _duplicates(items: list[ImageItem]) -> list[Finding]:
    first: dict[str, ImageItem] = {}
    found = []
    for item in items:
        twin = first.setdefault(item.sha256, item)
        if twin is not item:
            text = f"{item.path.name} is the same file as {twin.path.name}: it counts twice"
            found.append(note("warning", text, item.path))
    return found
