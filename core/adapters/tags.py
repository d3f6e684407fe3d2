"""The prompt's tags, `<lora:NAME:...>`, as the WebUI, lora-block-weight and others write them."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import ConfigError
from .block_weights import BlockWeights
from .blocks import ORDERS, block_order
from .inspire import inspire_vector
from .presets import KNOWN_ELSEWHERE, PRESETS
from .strength import Strength, Window

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
_NAMES = {"te", "unet", "dyn", "lbw", "w", "lbwe", "x", "start", "stop", "step"}
_BLOCK = re.compile(r"(?:ALL|BASE|(?:IN|M|OUT)\d*)", re.IGNORECASE)
_WITH_ATTENTION = 17  # values of a vector of the blocks that LoRA adapts in SD 1.x
Dialect = Literal["lbw", "positional", "inspire"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """What one tag says.

    rank: of DyLoRA, cut from the front; 0 is all of it. weights, elements: as written; empty where
    the tag names none. window: the sampling steps in which it acts.
    """

    name: str
    text_encoder: float = 1.0
    unet: float = 1.0
    rank: int = 0
    weights: str = ""
    elements: str = ""
    x: float = 1.0
    window: Window | None = None

    def strength(
        self,
        family: str = "sd1",
        *,
        seed: int | None = None,
        presets: Mapping[str, str] | None = None,
        elements: Mapping[str, str] | None = None,
    ) -> Strength:
        """Return what the tag asks for. presets, elements: the user's own, name -> text."""
        chosen = None
        if self.weights or self.elements:
            chosen = BlockWeights.parse(
                self.weights or "ALL", family, x=self.x, seed=seed, presets=presets
            )
        if chosen is not None and self.elements:
            rules = (elements or {}).get(self.elements, self.elements)
            if ":" not in rules:
                known = ", ".join(elements or {}) or "none"
                raise ConfigError(
                    f"lbwe={self.elements}: there is no such entry for elements; there are {known}"
                )
            chosen = chosen.with_elements(rules, family, x=self.x, seed=seed)
        return Strength(
            unet=self.unet,
            text_encoder=self.text_encoder,
            block_weights=chosen,
            window=self.window,
        )


def read_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """Return a prompt without its tags, and the tags. ConfigError says which tag is wrong."""
    tags = tuple(read_tag(found[0]) for found in _TAG.finditer(prompt))
    return re.sub(r"\s{2,}", " ", _TAG.sub("", prompt)).strip(), tags


def read_tag(text: str) -> Tag:
    """Read `<lora:NAME:TE:UNET:lbw=...:lbwe=...:x=:start=:stop=:step=a-b>`, parts in any order.

    One number is both the text encoder's and the U-Net's. The forms without names are read too:
    numbers are TE, UNET and DyLoRA's rank, then block weights, then elements. Elements may stand
    after a semicolon of the block weights too.
    """
    tag = _TAG.fullmatch(text.strip())
    if tag is None:
        raise ConfigError(f"{text!r} is no tag; write <lora:NAME:1> or <lora:NAME:1:lbw=NOFACE>")
    name, _, rest = (part.strip() for part in tag[1].partition(":"))
    if not name:
        raise ConfigError(f"{text} names no network; write <lora:NAME:1>")
    named: dict[str, str] = {}
    loose: list[str] = []
    for part in _split(rest.replace("；", ";")):
        key, value = _named(part)
        if key in _NAMES:
            named[key] = value
        elif key.isidentifier() and not _BLOCK.fullmatch(key):
            known = ", ".join(f"{key}=" for key in sorted(_NAMES))
            raise ConfigError(f"{text}: there is no {key}=; a tag has {known}")
        else:
            loose.append(part)
    return _tag(text, name, named, loose)


def tag_elsewhere(
    tag: Tag, chosen: BlockWeights, family: str, blocks: Collection[str], written: str = ""
) -> Tag:
    """Return the tag with block weights as lora-block-weight reads them, for these blocks.

    written: how the weights were given. A preset of the extension's is kept by name where it means
    the same there, and a vector as it is; all else becomes a vector. Rules for elements go apart.
    """
    name = written.partition(";")[0].strip()
    vector, _, rules = chosen.along(block_order(family, blocks)).text().partition(";")
    if name in KNOWN_ELSEWHERE:
        # there it is a vector of 17, whatever the network: blocks without attention are at 0
        there = dict(zip(ORDERS[_WITH_ATTENTION], PRESETS[name], strict=False))
        is_kept = all(chosen.ratio(block) == there.get(block, 0.0) for block in blocks)
    else:
        is_kept = "=" not in name and name.count(",") > 1
    return replace(tag, weights=name if is_kept else vector, elements=tag.elements or rules)


def write_tag(
    tag: Tag, dialect: Dialect = "lbw", family: str = "sd1", positions: tuple[str, ...] = ()
) -> str:
    """Write a tag for use elsewhere. ConfigError where the dialect can't say it.

    "lbw": parts with names, for lora-block-weight and for us. "positional": the old form, which
    the WebUI's own loader refuses since its version 1.5. "inspire": for the Inspire pack, whose
    vector has a value for each block that the file has (positions, of `positions_of`).
    """
    te, unet = _short(tag.text_encoder), _short(tag.unet)
    if dialect == "inspire":
        return _inspire_tag(tag, family, positions)
    if dialect == "positional":
        if tag.elements or tag.window or tag.x != 1:
            raise ConfigError(
                f"{tag.name}: the form without names has no place for elements, x or steps; "
                "use lbw= instead"
            )
        parts = [te, unet, str(tag.rank), tag.weights] if tag.weights or tag.rank else [te, unet]
        return f"<lora:{tag.name}:{':'.join(part for part in parts if part)}>"
    parts = [te] if te == unet else [te, unet]
    if tag.rank:
        parts.append(f"dyn={tag.rank}")
    if tag.weights:
        parts.append(f"lbw={tag.weights}")
    if tag.elements:
        parts.append(f"lbwe={tag.elements}")
    if tag.x != 1:
        parts.append(f"x={_short(tag.x)}")
    if tag.window:
        start, stop = tag.window.start, tag.window.stop
        parts.append(f"step={start}-{stop}" if stop else f"start={start}")
    return f"<lora:{tag.name}:{':'.join(parts)}>"


def _inspire_tag(tag: Tag, family: str, positions: tuple[str, ...]) -> str:
    strength = tag.strength(family)
    if tag.window or strength.block_weights is None:
        raise ConfigError(f"{tag.name}: the Inspire pack's tag has block weights and no steps")
    vector = inspire_vector(strength.block_weights, positions)
    return f"<lora:{tag.name}:{_short(tag.unet)}:{_short(tag.text_encoder)}:LBW={vector};>"


def _split(parts: str) -> list[str]:
    """The parts between colons; those of written-out rules for elements stay together."""
    found: list[str] = []
    in_rules = False
    for part in map(str.strip, parts.split(":")):
        key = _named(part)[0]
        if in_rules and key not in _NAMES:
            found[-1] += f":{part}"
        else:
            found.append(part)
            in_rules = key == "lbwe" or ";" in part
    return found


def _named(part: str) -> tuple[str, str]:
    """The name and the value of a part; of one without a name the name is empty."""
    key, equals, value = part.partition("=")
    return (key.strip(), value.strip()) if equals else ("", part)


def _tag(text: str, name: str, named: Mapping[str, str], loose: list[str]) -> Tag:
    numbers: list[float] = []
    words: list[str] = []
    for part in loose:
        if not words and len(numbers) < 3 and _is_number(part):
            numbers.append(_number(text, part))
        else:
            words.append(part)
    if len(words) > 2:
        raise ConfigError(f"{text}: {words[2]!r} has no meaning there")
    word = dict(zip(("weights", "elements"), words, strict=False))
    te = _number(text, named["te"], "te=") if "te" in named else (numbers[0] if numbers else None)
    unet = _number(text, named["unet"], "unet=") if "unet" in named else None
    if unet is None and len(numbers) > 1:
        unet = numbers[1]
    both = next((value for value in (te, unet) if value is not None), 1.0)
    rank = _number(text, named["dyn"], "dyn=") if "dyn" in named else (numbers[2:] or [0])[0]
    if rank != int(rank) or rank < 0:
        raise ConfigError(f"{text}: the rank is {rank:g}; it must be a whole number, 0 for all")
    given = named.get("lbw", named.get("w", word.get("weights", "")))
    weights, _, rules = (part.strip() for part in given.partition(";"))
    elements = named.get("lbwe", word.get("elements", ""))
    if rules and elements:
        raise ConfigError(
            f"{text} has elements in two places, {rules!r} and {elements!r}: leave one of them "
            "out, or write both as rules with a comma between, after lbwe="
        )
    return Tag(
        name=name,
        text_encoder=both if te is None else te,
        unet=both if unet is None else unet,
        rank=int(rank),
        weights=weights,
        elements=rules or elements,
        x=_number(text, named["x"], "x=") if "x" in named else 1.0,
        window=_window(text, named),
    )


def _window(text: str, named: Mapping[str, str]) -> Window | None:
    start, stop = named.get("start"), named.get("stop")
    if "step" in named:
        start, dash, stop = named["step"].partition("-")
        if not dash:
            raise ConfigError(f"{text}: step={named['step']} is not of the form step=a-b")
    if start is None and stop is None:
        return None
    for word in (start, stop):
        if word is not None and not re.fullmatch(r"\d{1,9}", word.strip()):
            raise ConfigError(f"{text}: step {word!r} is no whole number of up to 9 digits")
    return Window(int(start or 0), int(stop) if stop is not None else None)


def _is_number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _number(text: str, part: str, key: str = "") -> float:
    if not _is_number(part) or not math.isfinite(float(part)):
        raise ConfigError(f"{text}: {key}{part} is no number; write one such as {key}1")
    return float(part)


def _short(value: float) -> str:
    return f"{value:g}"
