"""Plain mappings, as JSON has them, to settings objects and back; strict in one direction."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ..errors import ConfigError, FileError
from .fields import shown

T = TypeVar("T")

_LARGEST_FILE = 4 << 20


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "recipe") -> T:
    """Build a settings object; what is left out takes its default.

    Raises ConfigError for an unknown or missing setting (with the nearest name) and for any value
    that is of the wrong type, not finite or out of range.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} is {shown(mapping)}; it must be a group of settings: {{...}}")
    hints = get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}: no setting '{key}'; {_advice(key, known, hints)}")
    values = dict(mapping)
    for name, item in known.items():
        section = is_dataclass(hints[name])
        if section and (name in values or _is_required(item)):
            values[name] = from_mapping(hints[name], values.get(name, {}), f"{where}.{name}")
        elif name not in values and _is_required(item):
            raise ConfigError(f"{where}: the setting '{name}' is missing; it has no default")
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return all settings as plain JSON values, nested as the settings objects are."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_mapping(value)
    return list(value) if isinstance(value, tuple) else value


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _advice(key: object, known: Iterable[str], hints: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    for name, hint in hints.items():
        if is_dataclass(hint) and key in {item.name for item in fields(hint)}:
            return f"did you mean '{name}.{key}'?"
    return f"there are {', '.join(known)}"


def read_settings(path: Path, what: str) -> str:
    """The text of a settings file; `what` is what it should be, as "recipe".

    Raises FileError where it cannot be read, ConfigError where it cannot be such a file.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise ConfigError(f"{path} has {size} bytes: it is not a {what} (JSON text)")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a {what}: it is not UTF-8 text ({error})") from error
    except (OSError, ValueError) as error:
        raise FileError(f"The {what} {path} cannot be read: {error}") from error


def parse_json(text: str, what: str) -> Any:
    """Read JSON as settings are written: no name twice in a group, only finite numbers.

    Raises ConfigError that calls the text `what`, as "the recipe".
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                raise ConfigError(f"{what} gives '{key}' twice in one group; keep one of them")
            mapping[key] = value
        return mapping

    def refuse_constant(name: str) -> Any:
        raise ConfigError(f"{what} holds {name}; every number must be finite")

    try:
        return json.loads(text, object_pairs_hook=distinct, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{what} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not usable JSON: {error}") from error
