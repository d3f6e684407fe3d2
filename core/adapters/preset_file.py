"""Preset files of block weights and of elements, as the lora-block-weight extension has them."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .block_weights import BlockWeights
from .blocks import LENGTHS, ORDERS

_MARK = "\ufeff"  # that some editors put at a file's beginning
_FLUX = 61  # values of a vector for a family that is not drawn with yet


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line of a preset file that was not taken, counted from 1, and why."""

    number: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.number} ({self.text[:60]!r}): {self.reason}"


@dataclass(frozen=True, slots=True)
class PresetFile:
    """A preset file's content: name -> text, and what was left out of it."""

    presets: dict[str, str]
    skipped: tuple[SkippedLine, ...]


def read_presets(text: str) -> PresetFile:
    """Read lines of NAME:v,v,... ("#" starts a comment; of one name the last line counts).

    A line that can't be used is skipped and named with the reason. Beyond the extension's format,
    NAME:IN04-IN08=0.5 and elements after a semicolon are read too.
    """
    presets, skipped = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, body = _taken_apart(line)
        if not (name or colon):
            continue
        reason = "it is not of the form NAME:1,0,..."
        if colon and name:
            reason = _name_fault(name) or _fault(name, body)
        if reason:
            skipped.append(SkippedLine(number, line.strip(), reason))
            continue
        if name in presets:
            skipped.append(SkippedLine(number, line.strip(), f"it replaces an earlier {name}"))
            del presets[name]
        presets[name] = body
    return PresetFile(presets, tuple(skipped))


def write_presets(presets: Mapping[str, str]) -> str:
    """Write presets as a file that `read_presets` and, for vectors, the extension reads.

    ConfigError for a name or a text that a line can't hold.
    """
    for name, body in presets.items():
        check_preset(name, body)
    return "".join(f"{name}:{body}\n" for name, body in presets.items())


def edited(text: str, name: str, new: tuple[str, str] | None) -> str:
    """Return a preset file's text with one preset changed, and every other character as it was.

    new: the name and the text that it gets; None takes the preset out. A name that is not in the
    file is added at its end. Of several lines of one name the last one, which counts, is changed.
    """
    mark = _MARK if text.startswith(_MARK) else ""
    lines = text.removeprefix(_MARK).splitlines(keepends=True)
    places = [
        place
        for place, (own, colon, body) in enumerate(map(_taken_apart, lines))
        if own == name and colon and not _fault(own, body)
    ]
    if new is None:
        return mark + "".join(line for place, line in enumerate(lines) if place not in places)
    written = f"{new[0]}:{new[1]}"
    ending = "\r\n" if "\r\n" in text else "\n"
    if not places:
        gap = ending if lines and not lines[-1].endswith(("\n", "\r")) else ""
        return f"{text}{gap}{written}{ending}"
    *earlier, last = places
    content = lines[last].splitlines()[0]
    comment = f"  {content[content.index('#') :]}" if "#" in content else ""
    lines[last] = f"{written}{comment}{lines[last][len(content) :]}"
    renamed = earlier if new[0] != name else []  # an earlier one of the old name would come back
    return mark + "".join(line for place, line in enumerate(lines) if place not in renamed)


def check_preset(name: str, body: str) -> None:
    """Raise ConfigError unless a preset can be saved and read again under this name."""
    if reason := _name_fault(name):
        raise ConfigError(f"a preset can't be called {name!r}: {reason}")
    if reason := _fault(name, body):
        raise ConfigError(f"preset {name}: {reason}")
    if read_presets(f"{name}:{body}").presets != {name: body}:
        raise ConfigError(f"preset {name!r}: write its name and its values on one line, without #")


def read_element_presets(text: str) -> dict[str, str]:
    """Read NAME:BLOCKS:ELEMENTS:RATIO[,...] entries, separated by empty lines -> rules by name."""
    entries = "\n".join(line.strip() for line in text.splitlines()).split("\n\n")
    found = {}
    for entry in entries:
        name, colon, rules = entry.strip().partition(":")
        if colon and name.strip():
            found[name.strip()] = ",".join(rules.splitlines())
    return found


ELEMENT_PRESETS: dict[str, str] = {
    "ATTNDEEPON": "IN05-OUT05:attn:1",
    "ATTNDEEPOFF": "IN05-OUT05:attn:0",
    "PROJDEEPOFF": "IN05-OUT05:proj:0",
}
"""The extension's own entries for elements; they are written for SD1's blocks."""


def fitting_families(body: str) -> tuple[str, ...]:
    """Return the families that a preset's text can be used on."""
    fits = []
    for family in LENGTHS:
        try:
            BlockWeights.parse(body, family, seed=0)
        except ConfigError:
            continue
        fits.append(family)
    return tuple(fits)


def _taken_apart(line: str) -> tuple[str, str, str]:
    """A line's name, colon and text, without its comment; all empty where it says nothing."""
    content = line.replace(_MARK, "").partition("#")[0].strip()
    name, colon, body = (part.strip() for part in content.partition(":"))
    return name, colon, body


def _name_fault(name: str) -> str:
    """What is wrong with a preset's name; empty where it will do."""
    if name and name == name.strip() and not any(c in name for c in ":#;=,<>\n\r"):
        return ""
    return "give a name without : # ; = , < > and line breaks"


def _fault(name: str, body: str) -> str:
    """What is wrong with a preset's text; empty where some family can use it."""
    if fitting_families(body):
        return ""
    if "=" not in body and ";" not in body:
        count = body.count(",") + 1
        if count == _FLUX:
            return f"{count} values are a vector for Flux, which is not drawn with yet"
        if count not in ORDERS:
            lengths = ", ".join(map(str, sorted(ORDERS)))
            return f"it has {count} values; there are vectors of {lengths}"
        family = next(f for f, lengths in LENGTHS.items() if count in lengths)
    else:
        family = "sd1"
    try:
        BlockWeights.parse(body, family, seed=0)
    except ConfigError as error:
        return str(error).removeprefix("block weights: ")
    return f"{name} fits no model"
