"""Block weights: how strongly a network acts in each block, as users write it.

Facts and vectors are those of the lora-block-weight extension (hako-mikan). A vector is expanded
by name; a block that it does not name gets 0, a layer in no block keeps 1.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import ConfigError
from ..events import Finding
from ..randomness import generator
from .blocks import BASE, LENGTHS, ORDERS, block_of, every_block, in_order, select_blocks
from .elements import ElementRule, ratio_of, read_rules
from .presets import PRESETS, preset_names

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NAMED = re.compile(r"([^\W\d][\w./ -]*):(.*)", re.DOTALL)
_FULL_WIDTH = {ord("，"): ",", 0xFF1D: "=", ord("："): ":", ord("；"): ";"}
_LARGEST = 1000.0
_FORMS = (
    "write a number, R (random 0 to 1), U (random -0.5 to 1.5), X, or X with a number added, "
    "as in X-0.2"
)


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A ratio for each named block; equal when the ratios are, whatever the label.

    elements: ratios for kinds of layers, which override those of their blocks.
    """

    ratios: tuple[tuple[str, float], ...]
    label: str = field(default="", compare=False)
    elements: tuple[ElementRule, ...] = ()

    @classmethod
    def parse(
        cls,
        given: "str | Sequence[float] | BlockWeights",
        family: str = "sd1",
        *,
        x: float = 1.0,
        seed: int | None = None,
        presets: Mapping[str, str] | None = None,
    ) -> "BlockWeights":
        """Read what a user gave: a preset's name, a vector, or ranges of blocks.

        "NOFACE", "1,0.5,R,..." (17 or 26 values for SD1, 12 or 20 for SDXL; a leading "NAME:" is
        the label), "IN04-IN08=0.5, OUT03=0", "NOT OUT03-OUT05=1", "ALL=1, M00=0" (from left to
        right, the last one counts; blocks that are not mentioned are 0), or a sequence of numbers.
        After a semicolon stand rules for elements: "NOFACE; OUT03-OUT05:attn2:0.5".
        x stands in for X; R and U are drawn from seed. presets: the user's own, name -> text; they
        come before the built-in ones. ConfigError says which value is wrong.
        """
        if isinstance(given, BlockWeights):
            return given
        values = _Values(x, seed)
        if not isinstance(given, str):
            return _vector([str(value) for value in given], family, values, "")
        own = presets or {}
        name, *rules = (part.strip() for part in re.split("[;；]", given, maxsplit=1))
        text = name.translate(_FULL_WIDTH)
        label = name if name in own else text  # names keep the signs that they were given with
        if label in own:
            found = replace(cls.parse(own[label], family, x=x, seed=seed), label=label)
        else:
            found = _parse_text(text, family, values, own)
        return found.with_elements(rules[0], family, x=x, seed=seed) if rules else found

    def with_elements(
        self, rules: str, family: str = "sd1", *, x: float = 1.0, seed: int | None = None
    ) -> "BlockWeights":
        """Return these weights with further rules for elements, as `read_rules` reads them."""
        values = _Values(x, seed)

        def number(text: str, where: str) -> float:
            return values.read(text, where, 0)

        read = read_rules(rules.translate(_FULL_WIDTH), every_block(family), number)
        label = f"{self.label}; {rules.strip()}" if self.label else ""
        return replace(self, elements=(*self.elements, *read), label=label)

    def ratio(self, block: str | None) -> float:
        """Return the block's ratio: 0 for a block that is not named, 1 for a layer in no block."""
        if block is None:
            return 1.0
        return next((ratio for name, ratio in self.ratios if name == block), 0.0)

    def ratio_of(self, path: str) -> float:
        """Return the ratio of a layer, by path or kohya key: its block's, or its element's."""
        own = self.ratio(block_of(path))
        return ratio_of(self.elements, path, own) if self.elements else own

    def along(self, order: Iterable[str]) -> "BlockWeights":
        """Return these weights as a vector of the blocks in `order`, which users can write."""
        return replace(self, ratios=tuple((block, self.ratio(block)) for block in order))

    def effective(self, blocks: Iterable[str]) -> tuple[Any, ...]:
        """Return what these blocks get; two weights that agree there draw equal pictures."""
        return (*(self.ratio(block) for block in blocks), *self.elements)

    def text_state(self) -> tuple[Any, ...]:
        """Return what the text encoder gets: weights that agree there encode texts alike."""
        return self.effective((BASE,))

    def turned_off(self, blocks: Iterable[str]) -> tuple[str, ...]:
        """Return those of a network's blocks that are off only because they are not named."""
        return in_order(set(blocks) - dict(self.ratios).keys())

    def finding(self, blocks: Iterable[str]) -> Finding | None:
        """Return a warning about blocks of a network that these weights turn off by silence."""
        off = self.turned_off(blocks)
        if not off:
            return None
        return Finding(
            level="warning",
            text=f"block weights {self.label or 'given'} name {len(self.ratios)} blocks; "
            f"{', '.join(off)} of this network are not among them and are therefore off. "
            "Give a value for every block to decide yourself.",
        )

    def text(self) -> str:
        """Return the values as they are written in a vector, in the order of the blocks."""
        vector = ",".join(f"{value:g}" for _, value in self.ratios)
        return ";".join((vector, ",".join(r.text() for r in self.elements))).rstrip(";")


@dataclass(frozen=True, slots=True)
class _Values:
    """Reads single values; x and seed as in BlockWeights.parse."""

    x: float
    seed: int | None

    def read(self, text: str, where: str, position: int) -> float:
        text = text.strip()
        if text in {"R", "U"}:
            drawn = self._draw(where, text, position)
            return drawn if text == "R" else round(2 * drawn - 0.5, 3)
        if text.startswith("X") and (text == "X" or text[1] in "+-"):
            return self._checked(self.x, where) + (self._number(text[1:], where) if text[1:] else 0)
        return self._number(text, where)

    def _draw(self, where: str, text: str, position: int) -> float:
        if self.seed is None:
            raise ConfigError(f"{where} is {text} (random), but no seed was given for it")
        stream = generator(self.seed, "block weights", position)
        return round(torch.rand((), generator=stream, dtype=torch.float64).item(), 3)

    def _number(self, text: str, where: str) -> float:
        if not _NUMBER.fullmatch(text):
            shown = repr(text) if text else "empty"
            raise ConfigError(f"{where} is {shown}; {_FORMS}")
        return self._checked(float(text), where)

    @staticmethod
    def _checked(value: float, where: str) -> float:
        if not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise ConfigError(
                f"{where} is {value:g}; it must lie between -{_LARGEST:g} and {_LARGEST:g}"
            )
        return value


def chosen_blocks(text: str) -> frozenset[str] | None:
    """Read which blocks a training is for; None, for an empty text, is all of them.

    Block names and ranges, NOT before them, or any block weights, of which 0 leaves a block out.
    ConfigError says what is wrong.
    """
    text = text.translate(_FULL_WIDTH)
    words = text.replace(",", " ").split()
    if not words:
        return None
    every = every_block("sd1")  # SDXL's are the first of them
    names = {end for word in words[words[0].upper() == "NOT" :] for end in word.upper().split("-")}
    if names and names <= {*every, "ALL"}:
        return frozenset(select_blocks(words, every))
    families = [f for f in LENGTHS if text.count(",") + 1 in LENGTHS[f]] or ["sd1"]
    weights = BlockWeights.parse(text, families[0])
    return frozenset(block for block, ratio in weights.ratios if ratio != 0)


def preset(name: str, family: str = "sd1") -> BlockWeights:
    """Return a built-in preset; ConfigError with the nearest names where there is none."""
    if name not in preset_names(family):
        raise ConfigError(f"block weights: {_no_preset(name, family)}")
    values = PRESETS[name]
    named = dict(zip(ORDERS[len(values)], values, strict=True))
    return BlockWeights(tuple((b, named[b]) for b in every_block(family) if b in named), name)


def _no_preset(name: str, family: str, own: Iterable[str] = ()) -> str:
    names = (*own, *preset_names(family))
    if name in PRESETS:
        return f"preset {name} is not defined for {family}: no such blocks are agreed on there"
    folded = [known for known in names if known.casefold() == name.casefold()]
    near = folded + [n for n in difflib.get_close_matches(name, names, 3, 0.5) if n not in folded]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    return (
        f"there is no preset {name!r}; {hint} (upper and lower case count). Or give a vector of "
        f"{' or '.join(map(str, LENGTHS[family]))} values, or blocks as in IN04-IN08=0.5"
    )


def _parse_text(text: str, family: str, values: _Values, own: Iterable[str]) -> BlockWeights:
    if not text:
        raise ConfigError("block weights are empty; give a preset's name, a vector or blocks")
    if text in PRESETS:
        return preset(text, family)
    labelled = _NAMED.fullmatch(text)
    label, body = (labelled[1].strip(), labelled[2]) if labelled else ("", text)
    if "=" in body:
        return _assignments(body, family, values, label)
    parts = body.split(",")
    if len(parts) == 1 and not labelled and not _NUMBER.fullmatch(text):
        raise ConfigError(f"block weights: {_no_preset(text, family, own)}")
    return _vector(parts, family, values, label)


def _vector(parts: Sequence[str], family: str, values: _Values, label: str) -> BlockWeights:
    if len(parts) not in LENGTHS[family]:
        raise ConfigError(f"block weights: {_wrong_length(len(parts), family)}")
    order = ORDERS[len(parts)]
    ratios = [
        (block, values.read(part, f"block weights: value {index} ({block})", index))
        for index, (block, part) in enumerate(zip(order, parts, strict=True), 1)
    ]
    found = BlockWeights(tuple(ratios))
    return BlockWeights(found.ratios, label or found.text())


def _wrong_length(count: int, family: str) -> str:
    attention, every = LENGTHS[family]
    fits = f"{attention} (blocks with attention: LoRA) or {every} (every block: LyCORIS)"
    message = f"{count} value{'s' * (count != 1)} given; {family} takes {fits}"
    others = [name for name, lengths in LENGTHS.items() if count in lengths]
    if others:
        return f"{message}. {count} values are a vector for {others[0]}"
    for length in (attention, every):
        first, last = ORDERS[length][0], ORDERS[length][-1]
        if count == length - 1:
            return f"{message}. It is one short of {length}: is {first} or {last} missing?"
        if count == length + 1:
            return f"{message}. It is one more than {length}, which goes from {first} to {last}"
    if count == 1:
        return f"{message}. For one number everywhere write ALL=0.5"
    return message


def _assignments(text: str, family: str, values: _Values, label: str) -> BlockWeights:
    ratios = dict.fromkeys(every_block(family), 0.0)
    for position, part in enumerate(text.split(","), 1):
        blocks, equals, value = part.partition("=")
        if not equals or not blocks.strip():
            raise ConfigError(
                f"block weights: {part.strip()!r} is not of the form BLOCKS=VALUE, "
                "as in IN04-IN08=0.5"
            )
        ratio = values.read(value, f"block weights: {blocks.strip()}", position)
        chosen = select_blocks(blocks.split(), every_block(family))
        ratios.update(dict.fromkeys(chosen, ratio))
    return BlockWeights(tuple(ratios.items()), label or text.strip())
