"""Captions as the page works on them: which are shown, and what is done to many at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..core import session
from ..core.config import describe, from_mapping
from ..core.config.caption import CaptionConfig, caption_sections
from ..core.errors import ConfigError, DatasetError
from .desk import Desk
from .fields import Field
from .jobs import Controls, Job
from .places import require_allowed
from .words import Words

PAGE = 24  # pictures at a time
THUMB = 224
# What the dataset says already, and what a page has no use for.
_LEFT_OUT = frozenset({"caption.caption_extension", "caption.dry_run", "caption.recursive"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The pictures on one page. page: from 0. pages: how many there are."""

    items: tuple[Any, ...]
    page: int
    pages: int
    tags: tuple[str, ...]
    total: int


class CaptionBook:
    """The captions of the dataset's folder, read anew for every look: other programs edit too."""

    def __init__(self, desk: Desk, say: Words) -> None:
        self._desk, self._say = desk, say

    def _read(self, folder: str, extension: str) -> Any:
        place = require_allowed(self._desk.host.folders(), "dataset.folder", folder)
        return session.read_captions(place, extension)

    def look(self, folder: str, extension: str, chosen: str, page: int) -> Shown:
        """A page of the pictures that a filter lets through. Raises DatasetError."""
        captions = self._read(folder, extension)
        items = self._filtered(captions, chosen)
        pages = max(1, -(-len(items) // PAGE))
        page = min(max(page, 0), pages - 1)
        tags = tuple(f"{tag} ({count})" for tag, count in captions.tags().items())
        return Shown(
            items=items[page * PAGE : (page + 1) * PAGE],
            page=page,
            pages=pages,
            tags=(*self.filters(), *tags[:500]),
            total=len(items),
        )

    def filters(self) -> tuple[str, str]:
        """The filters that are no tags: all pictures, and those without a caption."""
        return (
            self._say("all pictures", "全部图片"),
            self._say("without a caption", "没有标注的"),
        )

    def _filtered(self, captions: Any, chosen: str) -> tuple[Any, ...]:
        everything, uncaptioned = self.filters()
        if not chosen or chosen == everything:
            return captions.items
        if chosen == uncaptioned:
            return tuple(item for item in captions.items if not item.text)
        wanted = set(captions.with_tag(chosen.rpartition(" (")[0] or chosen))
        return tuple(item for item in captions.items if item.picture in wanted)

    def write(self, folder: str, extension: str, picture: str, text: str) -> Any:
        """Write one caption. Raises DatasetError for a picture that is not in the folder."""
        captions = self._read(folder, extension)
        return session.write_captions(captions, {Path(picture): text})

    def undo(self, folder: str) -> Any:
        """Take back what was changed last. Raises DatasetError where there is nothing."""
        place = require_allowed(self._desk.host.folders(), "dataset.folder", folder)
        return session.undo_captions(place)

    def change(self, folder: str, config: CaptionConfig, chosen: str) -> Job:
        """Put a captioning, or rules alone, of the filtered pictures into the queue."""
        place = require_allowed(self._desk.host.folders(), "dataset.folder", folder)
        everything, _ = self.filters()
        pictures = None
        if chosen and chosen != everything:
            captions = self._read(folder, config.caption_extension)
            pictures = [item.picture for item in self._filtered(captions, chosen)]
            if not pictures:
                raise DatasetError(f"no picture has {chosen}: choose another filter")
        self._check_model(config)

        def work(controls: Controls) -> Any:
            captioner = session.open_captioner(config, self.folders(), session.pick_device())
            return session.caption(
                place,
                config,
                captioner,
                pictures=pictures,
                on_event=controls.on_event,
                stop=controls.stop,
            )

        return self._desk.board.submit("caption", place.name, work)

    def folders(self) -> list[Path]:
        """Where captioners' models lie: our own folder, then that of the host's models."""
        folders = self._desk.host.folders()
        return [folders.data / "captioners", folders.networks.parent]

    def _check_model(self, config: CaptionConfig) -> None:
        folders = self._desk.host.folders()
        if folders.allowed is None:
            return
        if config.download:
            raise ConfigError(
                "caption.download: visitors can't have this server download models; ask its owner"
            )
        if "/" in config.model or "\\" in config.model:
            require_allowed(folders, "caption.model", config.model)


def caption_fields(sections: Sequence[str]) -> list[Field]:
    """The settings of these groups that a page shows."""
    known = caption_sections()
    found = [Field(name, setting) for name in sections for setting in describe(known[name])]
    return [field for field in found if field.name not in _LEFT_OUT]


def caption_config(values: dict[str, Any], extension: str, *, dry_run: bool) -> CaptionConfig:
    """The settings from values by name ("rules.remove"). Raises ConfigError."""
    mapping: dict[str, Any] = {"caption_extension": extension, "dry_run": dry_run}
    for name, value in values.items():
        section, _, setting = name.partition(".")
        group = mapping if section == "caption" else mapping.setdefault(section, {})
        group[setting] = value
    return from_mapping(CaptionConfig, mapping, "caption")


def thumbnail(path: Path) -> Image.Image:
    """A small upright picture; an unreadable one is an empty one."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (THUMB * 2, THUMB * 2))
            small = ImageOps.exif_transpose(picture)
            small.thumbnail((THUMB, THUMB))
            return small.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Image.new("RGB", (THUMB, THUMB), "#cccccc")
