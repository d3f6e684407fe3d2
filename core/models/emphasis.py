r"""Weighted captions: "(word:1.3)", "(word)", "[word]" to spans of text, each with its weight.

The notation of the WebUI's prompts: round brackets multiply by 1.1 or by the number that they end
with, square ones by 1 / 1.1; nested ones multiply; a backslash makes the next bracket or backslash
literal, and disappears before anything else. Source: AUTOMATIC1111 stable-diffusion-webui
`modules/prompt_parser.py`, which kohya sd-scripts follows; the WebUI's BREAK is not for captions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

LARGEST = 1000.0  # absolute weight; beyond it, half precision overflows

_MARKUP = re.compile(
    r"\\(?P<literal>[()\[\]\\]?)|(?P<open>[(\[])|:\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)"
    r"|(?P<close>[)\]])|[^\\()\[\]:]+|:"
)
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_PARTNERS = {")": "(", "]": "["}


class Span(NamedTuple):
    """A piece of a caption and the weight of its tokens, in [-1000, 1000]."""

    text: str
    weight: float


class _Open(NamedTuple):
    bracket: str
    factor: float


class _Close(NamedTuple):
    bracket: str


def parse_emphasis(caption: str) -> list[Span]:
    """Spans of a caption, without the markup; neighbours of equal weight are one span.

    Never fails: a bracket that is not closed reaches to the end, one that was not opened is text,
    and so is what looks like a weight and is no number. Linear in the caption's length.
    """
    spans = groupby(_weighted(_events(caption)), key=lambda span: span.weight)
    return [Span("".join(span.text for span in group), weight) for weight, group in spans]


def _events(caption: str) -> list[str | _Open | _Close]:
    """Texts and brackets in their order; an opening one knows its factor already."""
    events: list[str | _Open | _Close] = []
    waiting: dict[str, list[int]] = {"(": [], "[": []}  # places of the brackets that are open
    for match in _MARKUP.finditer(caption):
        number = match["number"]
        closed = "(" if number is not None else _PARTNERS.get(match["close"])
        if match["literal"] is not None:
            events.append(match["literal"])
        elif match["open"]:
            waiting[match["open"]].append(len(events))
            events.append(_Open(match["open"], _FACTORS[match["open"]]))
        elif closed and waiting[closed]:
            place = waiting[closed].pop()
            if number is not None:
                events[place] = _Open(closed, _limited(float(number)))
            events.append(_Close(closed))
        else:
            events.append(match[0])
    return events


def _weighted(events: list[str | _Open | _Close]) -> Iterator[Span]:
    """Texts with the product of the factors around them.

    Brackets of one kind lie within each other, but a round pair may begin within a square one and
    end after it: so each kind has its own products, from the outermost bracket inwards.
    """
    products = {"(": [1.0], "[": [1.0]}
    for event in events:
        if isinstance(event, _Open):
            inner = products[event.bracket]
            inner.append(_limited(inner[-1] * event.factor))
        elif isinstance(event, _Close):
            products[event.bracket].pop()
        else:
            yield Span(event, _limited(products["("][-1] * products["["][-1]))


def _limited(weight: float) -> float:
    return max(-LARGEST, min(LARGEST, weight))
