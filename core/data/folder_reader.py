"""Reading the pictures and captions of one folder, and noting what is odd about them."""

import hashlib
from pathlib import Path

from ..events import Finding, Level
from .captions import CaptionFiles, Note, read_caption
from .decode import UnusablePictureError, inspect_picture
from .folders import ConceptFolder
from .items import ImageItem
from .listing import in_words, name_some, note

TINY = 32
CHUNK = 1 << 20
NOTES: dict[Note, str] = {
    "lines": "captions of several lines, joined with commas (kohya takes the first line alone)",
    "long": "caption files of more than 64 KiB, of which only the beginning is used",
    "nul": "caption files with NUL characters, which are left out",
}


class FolderReader:
    """Reads one folder's pictures one by one; `findings()` is complete after the last."""

    def __init__(self, concept: ConceptFolder, extension: str) -> None:
        self._concept = concept
        self._extension = extension
        self._captions = CaptionFiles(concept.listing.files, extension)
        self._single: list[Finding] = []
        self._noted: dict[Note, list[Path]] = {}
        self._sharing: dict[Path, list[Path]] = {}
        self._items: list[ImageItem] = []
        self._uncaptioned = 0

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The files to read, sorted by name."""
        return self._concept.listing.pictures

    def read(self, path: Path) -> ImageItem | None:
        """Decode `path` and find its caption; None, with a finding, where it can't be used."""
        caption_path = self._captions.of(path)
        try:
            facts = inspect_picture(path)
            sha256 = _sha256(path)
        except UnusablePictureError as error:
            self._note("warning", f"{path.name} is left out: {error}", path)
            return None
        if min(facts.width, facts.height) < TINY:
            size = f"{facts.width} x {facts.height}"
            self._note("warning", f"{path.name} is tiny: {size} pixels", path)
        if facts.animated:
            self._note("info", f"{path.name} is animated: its first frame is used", path)
        text = self._caption(path, caption_path)
        item = ImageItem(
            path=path,
            caption=text or self._concept.concept,
            has_caption=bool(text),
            repeats=self._concept.repeats,
            concept=self._concept.concept,
            width=facts.width,
            height=facts.height,
            alpha=facts.alpha,
            sha256=sha256,
        )
        self._items.append(item)
        return item

    def findings(self) -> list[Finding]:
        """All that was odd in the folder, also about files that belong to no picture."""
        return [
            *self._single,
            *self._about_captions(),
            *self._about_stems(),
            *self._about_pictures(),
        ]

    def _caption(self, picture: Path, path: Path | None) -> str:
        if path is None:
            self._uncaptioned += 1
            return ""
        self._sharing.setdefault(path, []).append(picture)
        try:
            caption = read_caption(path)
        except OSError as error:
            reason = f"{path.name} can't be read ({error.strerror}): {self._substitute()}"
            self._note("warning", reason, path)
            return ""
        if not caption.text:
            self._note("warning", f"{path.name} is empty: {self._substitute()}", path)
        if "encoding" in caption.notes:
            text = f"{path.name} isn't UTF-8 and was read as {caption.encoding}: check its letters"
            self._note("warning", f"{text}, or save it as UTF-8", path)
        for kind in caption.notes:
            self._noted.setdefault(kind, []).append(path)
        return caption.text

    def _about_captions(self) -> list[Finding]:
        found = []
        if self._uncaptioned and self._items:
            have = "has" if self._uncaptioned == 1 else "have"
            text = (
                f"{self._uncaptioned} of {in_words(len(self._items))} {have} no caption: "
                f"{self._substitute()}"
            )
            found.append(note("warning", text, self._concept.path))
        others = [path for path in self._sharing if path.suffix.lower() != self._extension]
        if others:
            text = f"captions that aren't {self._extension} files, used for want of those"
            found.append(_listed("info", text, others))
        found += [
            _listed("info", text, self._noted[kind])
            for kind, text in NOTES.items()
            if kind in self._noted
        ]
        unused = self._captions.unused()
        if unused:
            found.append(_listed("warning", "caption files without a picture", unused))
        return found

    def _about_stems(self) -> list[Finding]:
        return [
            note("warning", f"{name_some([p.name for p in pictures])} share {path.name}", path)
            for path, pictures in self._sharing.items()
            if len(pictures) > 1
        ]

    def _about_pictures(self) -> list[Finding]:
        found = []
        others = list(self._concept.listing.other_pictures)
        if others:
            text = "pictures of kinds that aren't supported, left out"
            found.append(_listed("warning", text, others))
        transparent = [item.path for item in self._items if item.alpha]
        if transparent:
            found.append(
                _listed("info", "pictures with transparent parts, put on white", transparent)
            )
        return found

    def _substitute(self) -> str:
        concept = self._concept.concept
        if not concept:
            return "trained without words, as the folder's name has none either"
        return f"the folder's name {concept!r} is used"

    def _note(self, level: Level, text: str, path: Path) -> None:
        self._single.append(note(level, text, path))


def _listed(level: Level, what: str, paths: list[Path]) -> Finding:
    names = name_some([path.name for path in paths])
    return note(level, f"{what} ({len(paths)}): {names}", paths[0])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnusablePictureError(f"it can't be read ({error.strerror})") from error
    return digest.hexdigest()
