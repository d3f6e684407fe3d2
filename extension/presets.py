"""Starting points for a training: the shipped ones, and those that users save."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.config import Recipe, Text, from_mapping, to_mapping
from ..core.config.output import check_name
from ..core.errors import ConfigError, FileError, TrainerError

logger = logging.getLogger("lora_loop")
SHIPPED = Path(__file__).parents[1] / "presets"
_ORDER = ("character", "style", "object", "low-memory", "quick-look")
# What belongs to one training and not to a way of training.
_NOT_KEPT = {"schema": None, "base": None, "dataset": ("folder",), "output": ("folder", "name")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings that replace those of a recipe; what it does not name stays as it is."""

    label: Text
    help: Text
    settings: Mapping[str, Mapping[str, Any]]

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings. Raises ConfigError where they do not go together."""
        mapping = to_mapping(recipe)
        for section, values in self.settings.items():
            mapping[section] = {**mapping.get(section, {}), **values}
        return from_mapping(Recipe, mapping)


def presets(own: Path) -> dict[str, Preset]:
    """All presets by a key that stays the same in every language; users' own come last."""
    found = {path.stem: read(path) for path in sorted(SHIPPED.glob("*.json"), key=_place)}
    mine = {path.stem: _readable(path) for path in sorted(own.glob("*.json"))}
    return found | {f"own/{name}": preset for name, preset in mine.items() if preset is not None}


def read(path: Path) -> Preset:
    """Read a preset file. Raises FileError, ConfigError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        label, hint = (Text(**content.get(key, {})) for key in ("label", "help"))
        return Preset(label=label, help=hint, settings=dict(content["settings"]))
    except OSError as error:
        raise FileError(f"the preset {path} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is no preset ({error}); remove it or save it anew") from error


def _readable(path: Path) -> Preset | None:
    """A preset, or None for a damaged file: it must not close the tab."""
    try:
        return read(path)
    except TrainerError as error:
        logger.warning("%s", error)
        return None


def save(own: Path, name: str, recipe: Recipe) -> Path:
    """Keep a recipe's way of training under a name; one of that name is replaced."""
    check_name("the preset's name", name)
    settings = {
        section: _kept(values, _NOT_KEPT.get(section, ()))
        for section, values in to_mapping(recipe).items()
        if _NOT_KEPT.get(section, ()) is not None
    }
    text = {"en": name, "zh": name}
    content = {"label": text, "help": {"en": "", "zh": ""}, "settings": settings}
    path = own / f"{name}.json"
    try:
        own.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise FileError(f"the preset {path} cannot be written: {error}") from error
    return path


def _kept(values: Mapping[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in left_out}


def _place(path: Path) -> tuple[int, str]:
    known = path.stem in _ORDER
    return (_ORDER.index(path.stem) if known else len(_ORDER)), path.stem
