"""Plain mappings, as JSON has them, to settings objects and back; strict in one direction."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from ..errors import ConfigError
from .fields import shown

T = TypeVar("T")


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
