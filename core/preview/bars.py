"""Bar charts of what blocks do, in English or Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from ..config.fields import Text
from .analysis import Analysis
from .canvas import FAINT, FRAME, LINES, Canvas, Colour
from .difference import THRESHOLD
from .measure import Measures
from .progress_plot import nice_ticks
from .table import Language

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 900, 92, 76, 92, 44
BAR, BETWEEN = 11, 9
COLOURS = ((20, 84, 184), (205, 105, 20), (40, 140, 90))

_WORDS = {
    "measures": Text("What each block of {network} does", "{network} 各层的作用"),
    "share": Text("share of the change of the U-Net's output", "占 U-Net 输出变化的比例"),
    "weight": Text("share of the weights (square of their norm)", "占权重的比例（范数平方）"),
    "percent": Text("percent", "百分比"),
    "analysis": Text(
        "{network}: one block at {value:g}, the others at {others:g}",
        "{network}：单层为 {value:g}，其余为 {others:g}",
    ),
    "changed": Text(
        f"pixels that change by more than {THRESHOLD} of 255, in percent",
        f"变化超过 {THRESHOLD}/255 的像素，百分比",
    ),
    "inside": Text("inside the part", "部位之内"),
    "outside": Text("outside of it", "部位之外"),
    "whole": Text("whole picture", "整张图"),
    "network": Text("the network", "网络"),
}


class Series(NamedTuple):
    """One bar for each label."""

    name: str
    values: Sequence[float]


def measures_chart(
    measures: Measures, network_name: str = "", language: Language = "en"
) -> Image.Image:
    """Draw each block's share of the output's change and of the weights."""
    title = _say("measures", language, network=network_name or _say("network", language))
    blocks = measures.blocks
    series = (
        Series(_say("share", language), [100 * found.share for found in blocks]),
        Series(_say("weight", language), [100 * found.weight_share for found in blocks]),
    )
    return bar_chart(title, [b.block for b in blocks], series, _say("percent", language))


def analysis_chart(analysis: Analysis, language: Language = "en") -> Image.Image:
    """Draw how many pixels each block changes; inside and outside where a part was found."""
    request, blocks = analysis.request, analysis.blocks
    title = _say(
        "analysis",
        language,
        network=request.network_name or _say("network", language),
        value=request.value,
        others=request.others,
    )
    inside = [found.inside.percent for found in blocks if found.inside is not None]
    outside = [found.outside.percent for found in blocks if found.outside is not None]
    series = [Series(_say("whole", language), [found.whole.percent for found in blocks])]
    if inside and outside:
        series = [
            Series(_say("inside", language), inside),
            Series(_say("outside", language), outside),
        ]
    return bar_chart(title, [b.block for b in blocks], series, _say("changed", language))


def bar_chart(
    title: str, labels: Sequence[str], series: Sequence[Series], unit: str
) -> Image.Image:
    """Draw horizontal bars, a group for each label, with their values at the ends."""
    group = BAR * len(series) + BETWEEN
    height = TOP + group * len(labels) + BOTTOM
    values = [value for one in series for value in one.values] or [0.0]
    low, high = min(0.0, *values), max(0.0, *values)
    low -= 0.06 * (high - low) if low < 0 else 0.0  # room for a value left of its bar
    canvas = _Bars(height, (low, high if high > low else low + 1))
    canvas.write((20, 24), title, 20, "l")
    canvas.key(series)
    for value in nice_ticks(*canvas.span, 8):
        x = canvas.x(value)
        canvas.line([(x, TOP), (x, height - BOTTOM)], FRAME if value == 0 else LINES)
        canvas.write((x, height - BOTTOM + 12), f"{value:g}", 13, "m")
    canvas.write((WIDTH - 20, height - 14), unit, 13, "r", FAINT)
    for index, label in enumerate(labels):
        top = TOP + index * group + BETWEEN / 2
        canvas.write((LEFT - 10, top + (group - BETWEEN) / 2), label, 14, "r")
        for place, one in enumerate(series):
            canvas.bar(top + place * BAR, one.values[index], COLOURS[place % len(COLOURS)])
    return canvas.finished()


class _Bars(Canvas):
    """Bars along a span of values."""

    def __init__(self, height: int, span: tuple[float, float]) -> None:
        super().__init__(WIDTH, height)
        self.span = span

    def x(self, value: float) -> float:
        """Give the pixel of a value."""
        low, high = self.span
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def key(self, series: Sequence[Series]) -> None:
        """Name the colours, one line below the other."""
        for place, one in enumerate(series):
            y = 46 + place * 18
            self.box((20, y - 5), (32, y + 5), COLOURS[place % len(COLOURS)])
            self.write((40, y), one.name, 14, "l")

    def bar(self, top: float, value: float, ink: Colour) -> None:
        """Draw a bar from 0 to a value, and the value beyond its end."""
        left, right = sorted((self.x(0), self.x(value)))
        self.box((left, top), (max(right, left + 1), top + BAR - 1), ink)
        side, anchor = (right + 5, "l") if value >= 0 else (left - 5, "r")
        self.write((side, top + BAR / 2 - 0.5), f"{value:.1f}", 11, anchor, FAINT)


def _say(name: str, language: Language, **facts: object) -> str:
    return getattr(_WORDS[name], language).format(**facts)
