"""The blocks of a U-Net as block weights know them, and which block a layer lies in."""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ..errors import ConfigError

BASE = "BASE"
"""The text encoder, or all of them."""


def _run(prefix: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{index:02}" for index in range(first, last + 1))


ORDERS: dict[int, tuple[str, ...]] = {
    17: (BASE, "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *_run("OUT", 3, 11)),
    26: (BASE, *_run("IN", 0, 11), "M00", *_run("OUT", 0, 11)),
    12: (BASE, "IN04", "IN05", "IN07", "IN08", "M00", *_run("OUT", 0, 5)),
    20: (BASE, *_run("IN", 0, 8), "M00", *_run("OUT", 0, 8)),
}
"""Vector length -> its blocks in order, as the lora-block-weight extension has them."""

LENGTHS: dict[str, tuple[int, int]] = {"sd1": (17, 26), "sd2": (17, 26), "sdxl": (12, 20)}
"""Family -> the lengths that fit it: blocks with attention only, and every block."""

_EVERY = ORDERS[26]

_TEXT_ENCODER = re.compile(r"(?:lora_)?(?:te[12]?|text_encoder(?:_[12])?)_")
_UNET = re.compile(r"(?:lora_)?unet_")
_PART = re.compile(
    r"(?:(?P<conv_in>conv_in)|(?P<middle>mid_block|middle_block)"
    r"|input_blocks_(?P<input>\d+)|output_blocks_(?P<output>\d+)"
    r"|(?P<side>down|up)_blocks_(?P<level>\d+)_(?P<kind>attentions|resnets|downsamplers|upsamplers)"
    r"_(?P<index>\d+))(?:_|$)"
)


@lru_cache(maxsize=1 << 13)
def block_of(name: str) -> str | None:
    """Return the block of a layer ("IN04"), None where it belongs to none (time embedding, ...).

    name is a path ("unet.mid_block.attentions.0.proj_in") or a key of a network file
    ("lora_unet_mid_block_attentions_0_proj_in", in diffusers' or in LDM's naming). The numbers are
    the same for all families: SDXL only has fewer levels.
    """
    flat = name.replace(".", "_")
    if _TEXT_ENCODER.match(flat):
        return BASE
    unet = _UNET.match(flat)
    part = _PART.match(flat, unet.end()) if unet else None
    return _unet_block(part) if part else None


def in_order(blocks: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct blocks in the order of a full vector."""
    return tuple(sorted(set(blocks), key=_EVERY.index))


def every_block(family: str) -> tuple[str, ...]:
    """Return all blocks of a family's models, in order."""
    return ORDERS[LENGTHS[family][-1]]


def block_order(family: str, blocks: Iterable[str]) -> tuple[str, ...]:
    """Return the blocks of the shortest vector that names all of a network's."""
    attention, every = LENGTHS[family]
    return ORDERS[attention if set(blocks) <= set(ORDERS[attention]) else every]


def select_blocks(words: Sequence[str], every: Sequence[str]) -> list[str]:
    """Return the blocks of `[NOT] A B-C ...` in the order of `every`; ConfigError names a slip."""
    inverted = words[0].upper() == "NOT" and len(words) > 1
    chosen = {block for word in words[inverted:] for block in _range(word.upper(), every)}
    return [block for block in every if (block in chosen) != inverted]


def _range(word: str, every: Sequence[str]) -> Sequence[str]:
    if word == "ALL":
        return every
    first, dash, last = word.partition("-")
    ends = [first, last] if dash else [first, first]
    for end in ends:
        if end not in every:
            near = difflib.get_close_matches(end, every, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"block weights: there is no block {end!r}; {hint}The blocks are {', '.join(every)}"
            )
    start, stop = map(every.index, ends)
    if start > stop:
        raise ConfigError(f"block weights: {word} runs backwards; write {last}-{first}")
    return every[start : stop + 1]


def _unet_block(part: re.Match[str]) -> str | None:
    if part["conv_in"]:
        return "IN00"
    if part["middle"]:
        return "M00"
    if part["input"]:
        return _known(f"IN{int(part['input']):02}")
    if part["output"]:
        return _known(f"OUT{int(part['output']):02}")
    level, index = int(part["level"]), int(part["index"])
    if part["kind"] in {"downsamplers", "upsamplers"}:
        index = 2
    if part["side"] == "down":
        return _known(f"IN{1 + 3 * level + index:02}")
    return _known(f"OUT{3 * level + index:02}")


def _known(block: str) -> str | None:
    return block if block in _EVERY else None
