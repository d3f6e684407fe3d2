"""The user's own presets of block weights, in one file that other tools read too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..adapters.preset_file import (
    PresetFile,
    SkippedLine,
    check_preset,
    edited,
    read_presets,
    write_presets,
)
from ..adapters.presets import preset_names
from ..errors import ConfigError, FileError
from ..files.atomic import write_bytes

_LARGEST = 1 << 20  # bytes; a preset file is a page of text


class PresetBook:
    """Presets by name in a file of lora-block-weight's format, read anew at each call.

    Every change is written whole or not at all, and leaves all other lines as they are: comments,
    and what only other tools read. A name of a built-in preset may be taken: the user's own comes
    first wherever `presets` is given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def presets(self) -> dict[str, str]:
        """Return the presets, name -> text; none where there is no file yet."""
        return self.read().presets

    def read(self) -> PresetFile:
        """Return the presets and the lines that can't be used. Raises FileError."""
        return read_preset_file(self.path) if self.path.exists() else PresetFile({}, ())

    def save(self, name: str, text: str, *, overwrite: bool = False) -> None:
        """Add a preset, or replace one. ConfigError for a name that is taken, or a wrong text."""
        text = text.strip()
        check_preset(name, text)
        own = self.presets()
        if name in own and not overwrite:
            raise ConfigError(f"preset {name} exists already; choose another name or replace it")
        self._write(edited(self._content(), name, (name, text)))

    def rename(self, name: str, new: str) -> None:
        """Give a preset another name, at its place. ConfigError where that can't be."""
        own = self.presets()
        text = self._known(name, own)
        check_preset(new, text)
        if new in own and new != name:
            raise ConfigError(f"there is a preset {new} already; choose another name")
        self._write(edited(self._content(), name, (new, text)))

    def delete(self, name: str) -> None:
        """Forget a preset. ConfigError where there is none of this name."""
        own = self.presets()
        self._known(name, own)
        self._write(edited(self._content(), name, None))

    def add_file(self, path: Path, *, overwrite: bool = False) -> tuple[SkippedLine, ...]:
        """Take the presets of a file over, and return the lines that were not taken.

        Presets of names that are there already are kept as they are unless `overwrite`.
        """
        return self._add(str(path), read_preset_file(path), overwrite)

    def add_text(self, text: str, *, overwrite: bool = False) -> tuple[SkippedLine, ...]:
        """Take over what stands in such a file; otherwise as `add_file`."""
        return self._add("the text", read_presets(text), overwrite)

    def text(self) -> str:
        """Return all presets as a file for others holds them."""
        return write_presets(self.presets())

    def _add(self, name: str, given: PresetFile, overwrite: bool) -> tuple[SkippedLine, ...]:
        if not given.presets:
            raise FileError(
                f"{name} holds no preset that can be used; its lines must be of the form "
                "NAME:1,0,...,1"
            )
        own, content = self.presets(), self._content()
        for key, body in given.presets.items():
            if (overwrite or key not in own) and own.get(key) != body:
                content = edited(content, key, (key, body))
        self._write(content)
        return given.skipped

    def share(self, path: Path, names: tuple[str, ...] = (), *, overwrite: bool = False) -> None:
        """Write presets, all or those named, as a file for others."""
        own = self.presets()
        chosen = {name: self._known(name, own) for name in names} if names else own
        if not chosen:
            raise ConfigError("there is no preset of your own to share yet")
        write_bytes(path, write_presets(chosen).encode(), overwrite=overwrite)

    def names(self, family: str = "sd1") -> tuple[str, ...]:
        """Return the names that can be used: the user's own, then the built-in ones."""
        own = self.presets()
        return (*own, *(name for name in preset_names(family) if name not in own))

    def _content(self) -> str:
        """The file as it is, line endings included; empty where there is none."""
        return _text_of(self.path) if self.path.exists() else ""

    def _write(self, content: str) -> None:
        write_bytes(self.path, content.encode(), overwrite=True)

    def _known(self, name: str, own: Mapping[str, str]) -> str:
        if name not in own:
            known = ", ".join(own) or "none yet"
            raise ConfigError(f"there is no preset {name!r} of your own; there are {known}")
        return own[name]


def read_preset_file(path: Path) -> PresetFile:
    """Read a file of presets. Raises FileError where it can't be read as text."""
    return read_presets(_text_of(path))


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{path} is too large for a file of presets")
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise FileError(
            f"{path} can't be read ({reason}); give a text file of presets, saved as UTF-8"
        ) from error
