"""Block weights in the Inspire pack's dialect (ComfyUI): import and export only.

Its vector has a value for the base and then one for each block that the *file* has, in the order
input, middle, output: it shifts where a LoRA lacks blocks, and counts the middle block once for
each of its up to three parts. R is 0 to 3 and U is -1.5 to 1.5; A, B, a, b stand for two numbers
and their halves; the first value also rules layers that lie in no block.
"""

import re
from collections.abc import Iterable, Sequence

import torch

from ..errors import ConfigError
from ..randomness import generator
from .block_weights import BlockWeights
from .blocks import BASE, block_of

_MIDDLE = re.compile(r"(?:mid_block_(resnets|attentions)_(\d)|middle_block_(\d))_")
_NUMBER = r"-?(?:\d{1,4}(?:\.\d*)?|\.\d+)"
_SPEC = re.compile(rf"(default|base|in|mid|out)(?:(\d{{1,3}})(?:-(\d{{1,3}}))?)?=({_NUMBER})")
_SIDES = {"in": "IN", "mid": "M00", "out": "OUT"}


def positions_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Return a file's blocks as its vector counts them after the base; M00 may be there thrice."""
    places = set()
    for path in paths:
        block = block_of(path)
        if block in (None, BASE):
            continue
        places.add((("IN", "M", "OUT").index(block.rstrip("0123456789")), block, _part(path)))
    return tuple(block for _, block, _ in sorted(places))


def inspire_vector(weights: BlockWeights, positions: Sequence[str]) -> str:
    """Write weights as the pack's vector for a file with these positions.

    ConfigError for weights with rules for elements, which the dialect can't say.
    """
    if weights.elements:
        raise ConfigError("the Inspire pack has no rules for elements; bake the network instead")
    return ",".join(f"{weights.ratio(block):g}" for block in (BASE, *positions))


def read_inspire(
    text: str,
    positions: Sequence[str],
    *,
    a: float = 4.0,
    b: float = 1.0,
    seed: int | None = None,
) -> BlockWeights:
    """Read the pack's vector ("NAME:v,v,..." too) or its form "%default=1,in1-4=0.5,out7=0".

    positions: of the file that it was written for. A vector that is too short goes on with its
    last value, as there; what it has too much is refused. ConfigError says what can't be kept.
    """
    text = text.strip()
    values = (
        _specified(text[1:], positions)
        if text.startswith("%")
        else _vector(text.rpartition(":")[2], len(positions), (a, b), seed)
    )
    ratios: dict[str, float] = {BASE: values[0]}
    for block, value in zip(positions, values[1:], strict=True):
        if ratios.setdefault(block, value) != value:
            raise ConfigError(
                f"the vector gives parts of the middle block different values ({ratios[block]:g} "
                f"and {value:g}); M00 has one: make them equal"
            )
    return BlockWeights(tuple(ratios.items()), text)


def _part(path: str) -> int:
    middle = _MIDDLE.search(path.replace(".", "_"))
    if middle is None:
        return 0
    if middle[3]:
        return int(middle[3])
    return 1 if middle[1] == "attentions" else 2 * int(middle[2])


def _vector(text: str, count: int, letters: tuple[float, float], seed: int | None) -> list[float]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > count + 1:
        raise ConfigError(
            f"{len(parts)} values given; this file has {count} blocks, so the Inspire pack's "
            f"vector for it has {count + 1}"
        )
    values = [_value(part, place, letters, seed) for place, part in enumerate(parts)]
    return values + [values[-1]] * (count + 1 - len(values))


def _value(part: str, place: int, letters: tuple[float, float], seed: int | None) -> float:
    a, b = letters
    known = {"A": a, "a": a / 2, "B": b, "b": b / 2}
    if part in known:
        return known[part]
    if part.upper() in {"R", "U"}:
        if seed is None:
            raise ConfigError(f"value {place + 1} is {part} (random), but no seed was given for it")
        stream = generator(seed, "inspire block weights", place)
        drawn = float(torch.rand((), generator=stream, dtype=torch.float64)) * 3
        return round(drawn if part.upper() == "R" else drawn - 1.5, 2)
    if not re.fullmatch(_NUMBER, part):
        more = " (values for single layers of a block can't be kept)" if " " in part else ""
        raise ConfigError(f"value {place + 1} is {part!r}; it must be a number, R, U, A or B{more}")
    return float(part)


def _specified(text: str, positions: Sequence[str]) -> list[float]:
    specs = []
    for item in text.split(","):
        found = _SPEC.fullmatch(item.strip())
        if found is None:
            raise ConfigError(
                f"{item.strip()!r} is not of the form in1-4=0.5, out7=0, mid=1, base=1 or default=1"
            )
        specs.append(found)
    named = {spec[1]: float(spec[4]) for spec in specs if spec[1] in {"default", "base"}}
    default = named.get("default", 1.0)
    values = {side: [default] * _count(positions, start) for side, start in _SIDES.items()}
    for side, first, last, value in (spec.groups() for spec in specs if spec[1] in _SIDES):
        own = values[side]
        chosen = range(len(own)) if first is None else range(int(first) - 1, int(last or first))
        for place in chosen:
            if 0 <= place < len(own):  # as there, what the file lacks is passed over
                own[place] = float(value)
    return [named.get("base", default), *values["in"], *values["mid"], *values["out"]]


def _count(positions: Sequence[str], start: str) -> int:
    return sum(block.startswith(start) for block in positions)
