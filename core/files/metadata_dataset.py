"""What a network file says of its pictures: folders, tags, buckets; as many as a header holds."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..log import logger

# Bytes in the header, which ComfyUI shows only below 1 MiB: SDXL's tensors with all convolutions
# take 433 KiB of it, these together 400 KiB at most, the longest comment 160 KiB, the rest a few.
FOLDER_LIMIT = 96 << 10  # all that folders need: each is named in four places
TAG_LIMIT = 128 << 10  # tags stand in two places, in each so many bytes
BUCKET_LIMIT = 24 << 10  # and so do buckets

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One folder of the dataset: its name, repeats, and the captions of its pictures."""

    name: str
    repeats: int
    captions: tuple[str, ...]

    @property
    def seen(self) -> int:
        """Pictures that an epoch sees of it."""
        return self.repeats * len(self.captions)


def subset(folder: Folder, caption_extension: str) -> dict[str, object]:
    """A folder's entry in `ss_datasets`."""
    return {
        "img_count": len(folder.captions),
        "num_repeats": folder.repeats,
        "image_dir": folder.name,
        "caption_extension": caption_extension,
        "color_aug": False,
        "flip_aug": False,
        "random_crop": False,
        "shuffle_caption": False,
        "keep_tokens": 0,
    }


def directory(folder: Folder) -> dict[str, object]:
    """A folder's entry in `ss_dataset_dirs`."""
    return {"n_repeats": folder.repeats, "img_count": len(folder.captions)}


def tag_frequency(folders: tuple[Folder, ...], trigger: str) -> dict[str, dict[str, int]]:
    """How often each comma-separated tag occurs, by folder; the rarest go past TAG_LIMIT bytes.

    Without any tag the trigger stands in, so that the WebUI has something to offer.
    """
    counts = {
        folder.name: Counter(
            tag.strip().lower()
            for caption in folder.captions
            for tag in caption.split(",")
            if tag.strip()
        )
        for folder in folders
    }
    if trigger and not any(counts.values()):
        counts = {folder.name: Counter({trigger: len(folder.captions)}) for folder in folders}
    ranked = sorted(
        ((count, tag, name) for name, tags in counts.items() for tag, count in tags.items()),
        key=lambda row: (-row[0], row[1], row[2]),
    )
    sizes = (_size(f"{json.dumps(tag)}: {count}, ") for count, tag, _ in ranked)
    kept: dict[str, dict[str, int]] = {name: {} for name in counts}
    for count, tag, name in _fitting(ranked, sizes, TAG_LIMIT, "tags"):
        kept[name][tag] = count
    return kept


def bucket_info(sizes: tuple[tuple[int, int, int], ...], aspect_error: float) -> dict[str, object]:
    """`ss_bucket_info` of (width, height, pictures); the fullest if all are too many."""
    rows = [{"resolution": [width, height], "count": count} for width, height, count in sizes]
    fullest = sorted(range(len(rows)), key=lambda index: -sizes[index][2])
    room = (_size(f'"{index}": {json.dumps(rows[index])}, ') for index in fullest)
    kept = sorted(_fitting(fullest, room, BUCKET_LIMIT, "buckets"))
    return {
        "buckets": {str(index): rows[index] for index in kept},
        "mean_img_ar_error": aspect_error,
    }


def fitting_folders(folders: tuple[Folder, ...], caption_extension: str) -> tuple[Folder, ...]:
    """Those of most pictures if all are too many, in their own order."""
    most = sorted(range(len(folders)), key=lambda index: -folders[index].seen)
    sizes = (_folder_size(folders[index], caption_extension) for index in most)
    return tuple(folders[n] for n in sorted(_fitting(most, sizes, FOLDER_LIMIT, "folders")))


def legible_folders(folders: tuple[Folder, ...]) -> tuple[Folder, ...]:
    """Folders whose text can be encoded, still of different names."""
    taken: set[str] = set()
    renamed = []
    for folder in folders:
        name, number = legible(folder.name), 1
        while name in taken:
            number += 1
            name = f"{legible(folder.name)} ({number})"
        taken.add(name)
        captions = tuple(legible(caption) for caption in folder.captions)
        renamed.append(replace(folder, name=name, captions=captions))
    return tuple(renamed)


def legible(text: str) -> str:
    """Text with question marks for what has no UTF-8: bytes of a file name in another encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _folder_size(folder: Folder, caption_extension: str) -> int:
    name = json.dumps(folder.name)
    own = json.dumps(subset(folder, caption_extension))
    return _size(f"{own}, {name}: {json.dumps(directory(folder))}, ") + 2 * _size(f"{name}: {{}}, ")


def _fitting(rows: Sequence[Row], sizes: Iterable[int], room: int, what: str) -> list[Row]:
    """Those rows, from the first on, for which there is room; one too large stops no other."""
    kept = []
    for row, size in zip(rows, sizes, strict=True):
        if size <= room:
            kept.append(row)
            room -= size
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        logger.warning(
            "the network file's metadata names %d %s; %d more are left out, because programs do "
            "not read longer metadata",
            *(len(kept), what, left_out),
        )
    return kept


def _size(text: str) -> int:
    """Bytes of a piece of JSON in the header, where it stands in a string once more."""
    return len(text) + text.count('"') + text.count("\\")
