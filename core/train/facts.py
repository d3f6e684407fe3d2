"""What a run knows of itself, for the metadata of its file."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ... import __version__
from ..data.items import ImageItem
from ..errors import CheckpointError
from ..files.metadata import Folder, RunFacts
from ..models.base_model import BaseModel
from .encode import Pictures
from .precision import PRECISIONS
from .task import Task
from .trainer import Trainer

_OLD_HASH_OFFSET, _OLD_HASH_LENGTH = 0x100000, 0x10000


class BaseHashes(NamedTuple):
    """Hashes of the checkpoint's file, read before the training: it may be gone after it.

    None where they are not known: of a host's model, which is not looked up on the disk, and of
    folders.
    """

    sha256: str | None
    old: str | None
    vae_sha256: str | None = None
    vae_old: str | None = None


def base_hashes(base: BaseModel) -> BaseHashes:
    """Read the files once, about a second per GB. Raises CheckpointError where one is gone."""
    if base.loan is not None:
        return BaseHashes(base.loan.sha256, None)
    try:
        own = (None, None) if base.path.is_dir() else (base.sha256, old_hash(base.path))
        vae = base.vae_path
        if vae is None or vae.is_dir():
            return BaseHashes(*own)
        return BaseHashes(*own, base.vae_sha256, old_hash(vae))
    except OSError as error:
        raise CheckpointError(f"{base.path} can't be read any more: {error}") from error


def run_facts(
    base: BaseModel, hashes: BaseHashes, task: Task, trainer: Trainer, output_name: str
) -> RunFacts:
    """Gather the facts; `trainer` says how far the run has come."""
    pictures = task.pictures
    batches, items = pictures.batches, pictures.dataset.items
    return RunFacts(
        output_name=output_name,
        family=base.family.key,
        prediction=base.prediction,
        zero_terminal_snr=base.zero_terminal_snr,
        base_file=base.path.name,
        base_sha256=hashes.sha256,
        base_old_hash=hashes.old,
        vae_file=base.vae_path.name if base.vae_path else None,
        vae_sha256=hashes.vae_sha256,
        vae_old_hash=hashes.vae_old,
        resolution=task.resolution,
        folders=_folders(items),
        buckets=tuple(
            (bucket.width, bucket.height, sum(items[fit.item].repeats for fit in bucket.fits))
            for bucket in pictures.buckets.buckets
        ),
        aspect_error=_aspect_error(pictures),
        batches_per_epoch=batches.batches_per_epoch,
        epochs=batches.epochs,
        epoch=-(-trainer.step // batches.steps_per_epoch),
        steps=trainer.step,
        total_steps=trainer.steps,
        precision=next(name for name, p in PRECISIONS.items() if p.compute == base.dtype),
        version=__version__,
    )


def old_hash(path: Path) -> str:
    """The WebUI's first model hash: 8 digits of the SHA-256 of 64 KiB at 1 MiB."""
    with path.open("rb") as file:
        file.seek(_OLD_HASH_OFFSET)
        return hashlib.sha256(file.read(_OLD_HASH_LENGTH)).hexdigest()[:8]


def _folders(items: tuple[ImageItem, ...]) -> tuple[Folder, ...]:
    """By folder name, as sd-scripts counts; folders of one name and repeats are one."""
    captions: dict[tuple[str, int], list[str]] = {}
    for item in items:
        captions.setdefault((item.path.parent.name, item.repeats), []).append(item.caption)
    seen: Counter[str] = Counter()
    folders = []
    for (name, repeats), own in captions.items():
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        folders.append(Folder(name=unique, repeats=repeats, captions=tuple(own)))
    return tuple(folders)


def _aspect_error(pictures: Pictures) -> float:
    """Mean of |width / height of the picture - that of its bucket|, over pictures x repeats."""
    items, total, count = pictures.dataset.items, 0.0, 0
    for bucket in pictures.buckets.buckets:
        for fit in bucket.fits:
            item = items[fit.item]
            error = abs(item.width / item.height - bucket.width / bucket.height)
            total += error * item.repeats
            count += item.repeats
    return total / count
