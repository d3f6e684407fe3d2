"""The loss of a training as SVG: raw and smoothed, with the learning rate below."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .progress import Snapshot
from .words import Words

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 26
RATE_HEIGHT, BETWEEN = 40, 22
_MOST_POINTS = 360  # more than the chart has room for is drawn as the range within each piece


class Zoom(NamedTuple):
    """The part of all steps that is shown, as shares from 0 to 1."""

    start: float = 0.0
    end: float = 1.0


class _Axes(NamedTuple):
    top: float
    bottom: float
    steps: tuple[int, int]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        first, last = self.steps
        return LEFT + (step - first) / max(1, last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.values
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.bottom - share * (self.bottom - self.top)


def smoothed(values: Sequence[float]) -> list[float]:
    """Average exponentially over about a twentieth of all values, without a slow start."""
    decay = 1 - 1 / min(max(5.0, len(values) / 20), 500.0)
    total = weight = 0.0
    result = []
    for value in values:
        if math.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        result.append(total / weight if weight > 0 else math.nan)
    return result


def loss_chart(progress: Snapshot, say: Words, zoom: Zoom | None = None) -> str:
    """SVG of the losses; an empty text where there is nothing to see yet."""
    if len(progress.losses) < 2:
        return ""
    zoom = zoom or Zoom()
    count = len(progress.losses)
    start = min(int(zoom.start * count), count - 2)
    end = max(start + 2, math.ceil(zoom.end * count))
    raw, rates = progress.losses[start:end], progress.lrs[start:end]
    smooth = smoothed(progress.losses)[start:end]
    steps = (progress.first_step + start, progress.first_step + start + len(raw) - 1)
    split = HEIGHT - BOTTOM - RATE_HEIGHT - BETWEEN
    upper = _Axes(TOP, split, steps, _loss_range(raw, smooth))
    finite_rates = [rate for rate in rates if math.isfinite(rate)]
    lower = _Axes(
        split + BETWEEN, HEIGHT - BOTTOM, steps, (0.0, max(finite_rates, default=0.0) or 1.0)
    )
    parts = [
        *_grid(upper, _ticks(*upper.values, 4)),
        *_grid(lower, [lower.values[1]]),
        _curve(upper, raw, "lora-loop-raw"),
        _curve(upper, smooth, "lora-loop-smooth"),
        _curve(lower, rates, "lora-loop-rate"),
        *(_label(lower.x(step), HEIGHT - 8, f"{step:.0f}", "middle") for step in _steps(steps)),
        _label(WIDTH - RIGHT, split + BETWEEN - 4, say("learning rate", "学习率"), "end"),
    ]
    title = say("Loss over steps", "损失曲线")
    return (
        f'<svg class="lora-loop-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'
    )


def _loss_range(raw: Sequence[float], smooth: Sequence[float]) -> tuple[float, float]:
    """From 0 to all but the highest 2 % of the values: single spikes are cut."""
    finite = sorted(value for value in raw if math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    top = finite[min(len(finite) - 1, int(0.98 * len(finite)))]
    top = max([top, *(value for value in smooth if math.isfinite(value))])
    bottom = min(0.0, finite[0])
    return (bottom, top * 1.05) if top > bottom else (bottom, bottom + 1)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values within [low, high]: multiples of 1, 2 or 5 x 10^n."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _steps(ends: tuple[int, int]) -> list[float]:
    ticks = _ticks(ends[0], ends[1], 8) if ends[1] > ends[0] else [float(ends[0])]
    return [tick for tick in ticks if tick == int(tick)]


def _grid(axes: _Axes, values: Sequence[float]) -> Iterator[str]:
    for value in values:
        y = axes.y(value)
        yield f'<path class="lora-loop-grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield _label(LEFT - 6, y + 4, f"{value:.2g}", "end")


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _curve(axes: _Axes, values: Sequence[float], name: str) -> str:
    """A path with gaps where values are not finite."""
    pieces, pen = [], "M"
    for place, value in _thinned(values):
        if not math.isfinite(value):
            pen = "M"
            continue
        pieces.append(f"{pen}{axes.x(axes.steps[0] + place):.1f} {axes.y(value):.1f}")
        pen = "L"
    return f'<path class="{name}" d="{"".join(pieces)}"/>'


def _thinned(values: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Every value, or of a long row the least and the greatest of each piece."""
    size = math.ceil(len(values) / _MOST_POINTS * 2)
    if size <= 2:
        yield from enumerate(values)
        return
    for start in range(0, len(values), size):
        piece = range(start, min(start + size, len(values)))
        finite = [place for place in piece if math.isfinite(values[place])]
        if not finite:
            yield start, math.nan
            continue
        ends = {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        for place in sorted(ends):
            yield place, values[place]
