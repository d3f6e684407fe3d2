"""Recipe settings as the inputs of nodes: one widget for each field, with its words and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.config import Setting, Text, describe, sections
from ..core.config.caption import caption_sections

Input = tuple[Any, dict[str, Any]]
Inputs = dict[str, Input]

UNKNOWN_LIMIT = 2**31 - 1  # a number widget wants an upper end
SEED_LIMIT = 2**64 - 1

WEIGHTS_HELP = "A preset such as NOFACE, a vector, or ranges as in IN04-IN08=0.5."
_SIDE = {
    "min": 0,
    "max": 2048,
    "step": 8,
    "default": 0,
    "tooltip": "Pixels; 0 is the model's own size.",
}
STEPS: Input = ("INT", {"default": 20, "min": 1, "max": 150, "tooltip": "Of sampling."})
CFG: Input = (
    "FLOAT",
    {
        "default": 7.0,
        "min": 0.0,
        "max": 50.0,
        "step": 0.5,
        "tooltip": "How strictly the prompt is followed.",
    },
)
SIDES: Inputs = {"width": ("INT", _SIDE), "height": ("INT", _SIDE)}

# ComfyUI gives a widget called "seed" a second one that changes it after every run, and a changed
# seed would train anew; under another name the seed stays.
WIDGET_NAMES = {
    ("training", "seed"): "training_seed",
    ("preview", "seed"): "preview_seed",
    ("blip", "seed"): "blip_seed",
}


def widget_name(section: str, name: str) -> str:
    """What the widget of a setting is called."""
    return WIDGET_NAMES.get((section, name), name)


def setting_of(section: str, name: str) -> Setting:
    """A setting by its place in the recipe."""
    return next(item for item in describe(_known()[section]) if item.name == name)


def setting_inputs(places: Iterable[tuple[str, str]]) -> Inputs:
    """The widgets of settings by (section, name), in this order."""
    return {widget_name(*place): widget(setting_of(*place)) for place in places}


def section_places(section: str, skipped: Iterable[str] = ()) -> list[tuple[str, str]]:
    """All settings of a section but the skipped ones."""
    left_out = set(skipped)
    return [
        (section, item.name) for item in describe(_known()[section]) if item.name not in left_out
    ]


def _known() -> dict[str, type]:
    return {**sections(), **caption_sections()}


def widget(item: Setting) -> Input:
    """The input of one setting as ComfyUI's V1 nodes declare it."""
    options: dict[str, Any] = {"tooltip": item.help.en}
    if item.type == "choice":
        return list(item.choices), {**options, "default": item.default}
    if item.type == "bool":
        return "BOOLEAN", {**options, "default": item.default}
    if item.type in ("int", "float"):
        return _number(item, options)
    if item.type == "texts":
        lines = "\n".join(item.default or ())
        return "STRING", {**options, "default": lines, "multiline": True}
    return "STRING", {**options, "default": item.default or "", "multiline": False}


def _number(item: Setting, options: dict[str, Any]) -> Input:
    low = 0 if item.zero is not None or item.low is None else item.low
    high = UNKNOWN_LIMIT if item.high is None else item.high
    if item.type == "int":
        step = item.multiple or 1
        return "INT", {
            **options,
            "default": item.default,
            "min": int(low),
            "max": int(high),
            "step": step,
        }
    return "FLOAT", {
        **options,
        "default": item.default,
        "min": float(low),
        "max": float(high),
        "step": float_step(item.default),
        "round": False,
    }


def float_step(default: float) -> float:
    """A hundredth of the default's order of magnitude, 0.01 at most: 1e-4 is moved by 1e-6."""
    step = 0.01
    while default and step > abs(default) / 10 and step > 1e-7:
        step /= 10
    return float(f"{step:.0e}")


def values_of(
    places: Iterable[tuple[str, str]], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What widgets say, as {section: {setting: value}}; a list of texts has one on a line."""
    found: dict[str, dict[str, Any]] = {}
    for section, name in places:
        value = given.get(widget_name(section, name))
        if value is None:
            continue
        if setting_of(section, name).type == "texts":
            value = lines_of(value)
        found.setdefault(section, {})[name] = value
    return found


def lines_of(text: str) -> list[str]:
    """The lines of a text that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def words_of(places: Iterable[tuple[str, str]]) -> dict[str, tuple[Text, Text]]:
    """Label and help of each widget, for the locales."""
    return {
        widget_name(*place): (setting_of(*place).label, setting_of(*place).help) for place in places
    }
