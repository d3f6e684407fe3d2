"""Captions of a folder: the rooms that read pictures, write files and know captions, put together.

The session hands these functions on; hosts call them there.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .captioning.changes import (
    CaptionChange,
    CaptionReport,
    Captions,
    FileTools,
    PictureCaption,
)
from .captioning.models import captioner_names, make_captioner
from .captioning.protocol import Captioner, CaptionerSource
from .captioning.work import CaptionWork
from .captioning.writer import undo, write_texts
from .config.caption import CaptionConfig
from .data.captions import CaptionFiles, checked_extension, read_caption
from .data.decode import UnusablePictureError, decode_picture
from .data.folders import find_concepts
from .data.listing import Listing, legible, list_folder
from .errors import DatasetError
from .events import Finding, OnEvent, StopFlag, ignore, never
from .files.atomic import write_bytes
from .models.checkpoint import open_checkpoint

__all__ = [
    "CaptionChange",
    "CaptionReport",
    "Captioner",
    "Captions",
    "caption",
    "find_captioners",
    "open_captioner",
    "read_captions",
    "undo_captions",
    "write_captions",
]


def find_captioners(kind: str, folders: Sequence[Path]) -> list[str]:
    """Names of the models of a kind ("wd14", "blip") in model folders, to choose from."""
    return captioner_names(kind, folders)


def open_captioner(
    config: CaptionConfig, folders: Sequence[Path] = (), device: torch.device | None = None
) -> Captioner | None:
    """Find the model that the settings name; None for rules alone.

    It is downloaded where the settings say so. folders: where models lie, in the order in which
    they are looked through; a download goes into the first. The model is read when the first
    picture needs it, and is freed with the object. Raises CheckpointError.
    """
    source = CaptionerSource(
        folders=tuple(folders), device=device or torch.device("cpu"), read_weights=_read_weights
    )
    return make_captioner(config, source)


def caption(
    folder: str | Path,
    config: CaptionConfig,
    captioner: Captioner | None = None,
    *,
    pictures: Collection[Path] | None = None,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> CaptionReport:
    """Caption the pictures of a folder, or change the captions that are there by rules alone.

    captioner: what `open_captioner` gave for `config`; left out, it is opened here. pictures: only
    these of the folder. `stop` is asked between batches: what is written stays, and the same call
    goes on from there. With config.dry_run nothing is written, and the report says what would be.
    """
    captions = read_captions(folder, config.caption_extension, config.recursive)
    if captioner is None:
        captioner = open_captioner(config)
    if pictures is not None:
        captions = _only(captions, pictures)
    return CaptionWork(captions, config, captioner, _tools()).run(on_event, stop)


def read_captions(folder: str | Path, extension: str = ".txt", recursive: bool = False) -> Captions:
    """All pictures of a folder with their captions; files are read, pictures are not.

    recursive: every folder below it as well; otherwise the pictures that a training would see.
    """
    root = Path(folder).expanduser()
    extension = checked_extension(extension)
    listings, findings = _listings(root, recursive)
    items: list[PictureCaption] = []
    for listing in listings:
        _add_items(items, findings, listing, extension)
    if not items:
        raise DatasetError(f"{legible(root)} and the folders below it hold no pictures")
    return Captions(folder=root, items=tuple(items), findings=tuple(findings))


def write_captions(captions: Captions, texts: Mapping[Path, str]) -> CaptionReport:
    """Write captions that were edited by hand, by picture; as one run that can be undone."""
    return write_texts(captions, texts, _tools())


def undo_captions(folder: str | Path) -> CaptionReport:
    """Put the captions back that the last captioning, edit or change by hand has changed."""
    return undo(Path(folder).expanduser(), _tools())


def _listings(root: Path, recursive: bool) -> tuple[list[Listing], list[Finding]]:
    if not recursive:
        concepts, findings = find_concepts(root)
        return [concept.listing for concept in concepts], findings
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder {legible(root)}; choose the folder that holds the pictures"
        )
    listings: list[Listing] = []
    findings: list[Finding] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop(0)
        try:
            listing = list_folder(folder)
        except OSError as error:
            text = f"the folder can't be opened ({error.strerror}) and is left out"
            findings.append(Finding(level="warning", text=text, path=folder))
            continue
        listings.append(listing)
        waiting += [inside for inside in listing.folders if not inside.is_symlink()]
    return listings, findings


def _add_items(
    items: list[PictureCaption], findings: list[Finding], listing: Listing, extension: str
) -> None:
    files = CaptionFiles(listing.files, extension)
    owners: dict[Path, Path] = {}
    for picture in listing.pictures:
        found = files.of(picture)
        wanted = found is not None and files.is_wanted(found)
        file = found if found is not None and wanted else picture.with_suffix(extension)
        if file in owners:
            text = f"shares its caption with {legible(owners[file].name)}, which is captioned"
            findings.append(Finding(level="warning", text=text, path=picture))
            continue
        owners[file] = picture
        items.append(PictureCaption(picture=picture, file=file, text=_text(found)))


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return read_caption(file).text
    except OSError as error:
        raise DatasetError(
            f"the caption {legible(file)} can't be read ({error.strerror}); check its permissions"
        ) from error


def _only(captions: Captions, pictures: Collection[Path]) -> Captions:
    wanted = set(pictures)
    items = tuple(item for item in captions.items if item.picture in wanted)
    strangers = wanted - {item.picture for item in items}
    if strangers:
        raise DatasetError(
            f"{legible(min(strangers))} is not among the pictures of {legible(captions.folder)}; "
            "read the captions again"
        )
    return Captions(folder=captions.folder, items=items, findings=captions.findings)


def _tools() -> FileTools:
    return FileTools(decode=_decode, write=_write)


def _decode(path: Path) -> Image.Image:
    try:
        return decode_picture(path)
    except UnusablePictureError as error:
        raise DatasetError(str(error)) from error


def _write(path: Path, content: bytes) -> None:
    write_bytes(path, content, overwrite=True)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a pickle in which nothing is run."""
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.tensor(name) for name in checkpoint.shapes}
