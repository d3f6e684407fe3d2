"""What a setting is: a dataclass field that carries its words, limits and choices.

Forms, nodes, the command line and the documentation are built from `describe`; the same facts
check every value, so that no range stands in two places.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

from ..errors import ConfigError

Kind = Literal["int", "float", "bool", "str", "choice", "texts"]
_LONGEST_TEXT = 20_000


class Text(NamedTuple):
    """The same words in English and Simplified Chinese."""

    en: str
    zh: str


UNITS = {
    "pixels": Text("pixels", "像素"),
    "steps": Text("steps", "步"),
    "epochs": Text("epochs", "轮"),
    "images": Text("images", "张"),
    "tokens": Text("tokens", "个词元"),
    "share": Text("share of all steps", "占总步数的比例"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive range of a number; `zero` says what 0 means where 0 lies outside of the range."""

    low: float
    high: float | None = None
    unit: str | None = None
    zero: Text | None = None
    multiple: int | None = None


@dataclass(frozen=True, slots=True)
class _Words:
    label: Text
    help: Text
    limits: Limits | None
    choices: Mapping[str, Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as a form or a table needs it; `default` is None where the user must choose."""

    name: str
    type: Kind
    default: Any
    required: bool
    label: Text
    help: Text
    low: float | None
    high: float | None
    unit: Text | None
    zero: Text | None
    multiple: int | None
    choices: Mapping[str, Text]


def setting(
    default: Any,
    label: Text,
    hint: Text,
    limits: Limits | None = None,
    choices: Mapping[str, Text] | None = None,
) -> Any:
    """Declare a field of a settings dataclass; a `default` of MISSING makes it required."""
    words = _Words(label, hint, limits, choices or {})
    return field(default=default, metadata={"words": words})


def section_name(cls: type) -> str:
    """Name of a settings class as users write it: LrScheduleConfig is "lr_schedule"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Config")).lower()


@cache
def describe(cls: type) -> tuple[Setting, ...]:
    """All settings of a settings dataclass, in their order; nested sections are left out."""
    hints = get_type_hints(cls)
    return tuple(
        _describe_field(item.name, item.default, hints[item.name], item.metadata["words"])
        for item in fields(cls)
        if "words" in item.metadata
    )


def _describe_field(name: str, default: Any, hint: Any, words: _Words) -> Setting:
    limits = words.limits
    return Setting(
        name=name,
        type=_kind(hint),
        default=None if default is MISSING else default,
        required=default is MISSING,
        label=words.label,
        help=words.help,
        low=limits.low if limits else None,
        high=limits.high if limits else None,
        unit=UNITS[limits.unit] if limits and limits.unit else None,
        zero=limits.zero if limits else None,
        multiple=limits.multiple if limits else None,
        choices=words.choices,
    )


def _kind(hint: Any) -> Kind:
    if get_origin(hint) is Literal:
        return "choice"
    if get_origin(hint) is tuple:
        return "texts"
    plain: dict[type, Kind] = {int: "int", float: "float", bool: "bool", str: "str"}
    return plain[hint]


def check_fields(config: Any) -> None:
    """Check every setting of a frozen settings object; to be called in its `__post_init__`.

    Whole numbers given for floats become floats and lists become tuples, so that equal recipes
    are equal objects. Raises ConfigError that names section.field, the value and what is allowed.
    """
    section = section_name(type(config))
    for item in describe(type(config)):
        value = _checked(item, getattr(config, item.name), f"{section}.{item.name}")
        object.__setattr__(config, item.name, value)


def shown(value: Any) -> str:
    """A value as the user wrote it in JSON, shortened to fit a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _checked(item: Setting, value: Any, where: str) -> Any:
    if item.type == "choice":
        if not isinstance(value, str) or value not in item.choices:
            allowed = ", ".join(f'"{choice}"' for choice in item.choices)
            raise ConfigError(f"{where} is {shown(value)}; it must be one of {allowed}")
        return value
    if item.type in ("int", "float"):
        return _checked_number(item, value, where)
    if item.type == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{where} is {shown(value)}; it must be true or false")
        return value
    if item.type == "texts":
        if not isinstance(value, (list, tuple)):
            raise ConfigError(
                f'{where} is {shown(value)}; it must be a list of texts: ["...", "..."]'
            )
        return tuple(_checked_text(part, f"{where}[{n}]") for n, part in enumerate(value))
    return _checked_text(value, where)


def _checked_number(item: Setting, value: Any, where: str) -> int | float:
    kind = "a whole number" if item.type == "int" else "a number"
    accepted = int if item.type == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise ConfigError(f"{where} is {shown(value)}; it must be {kind}{_range(item)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {shown(value)}; it must be {kind}{_range(item)}")
    if not (item.zero and value == 0) and (
        (item.low is not None and value < item.low)
        or (item.high is not None and value > item.high)
        or (item.multiple is not None and value % item.multiple)
    ):
        raise ConfigError(f"{where} is {shown(value)}; it must be {kind}{_range(item)}")
    if item.type == "int":
        return int(value)
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{where} is too large a number; it must be {kind}") from None


def _range(item: Setting) -> str:
    text = ""
    if item.low is not None and item.high is not None:
        text = f" from {item.low:g} to {item.high:.15g}"
    elif item.low is not None:
        text = f" of {item.low:g} or more"
    if item.multiple is not None:
        text += f", a multiple of {item.multiple}"
    if item.zero is not None:
        text += f", or 0 ({item.zero.en})"
    return text


def _checked_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {shown(value)}; it must be text")
    if len(value) > _LONGEST_TEXT:
        raise ConfigError(
            f"{where} has {len(value)} characters; it must have {_LONGEST_TEXT} or fewer"
        )
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{where} is {shown(value)}; it holds characters that are not text")
    return value


def check_path(where: str, text: str) -> None:
    """Refuse what cannot be a path anywhere: nothing at all, or control characters."""
    if not text.strip():
        raise ConfigError(f"{where} is empty; give a path")
    if any(ord(letter) < 32 for letter in text):
        raise ConfigError(f"{where} is {shown(text)}; a path has no line breaks or tabs")
