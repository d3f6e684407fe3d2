"""The loss of a training as a picture: raw, smoothed, and the learning rate below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .canvas import FRAME, LINES, Canvas, Colour

WIDTH, HEIGHT = 1000, 560
LEFT, RIGHT, TOP, BOTTOM = 86, 24, 52, 44
LR_HEIGHT, BETWEEN = 90, 34
RAW, SMOOTH, RATE = (186, 208, 238), (20, 84, 184), (205, 105, 20)


class _Axes(NamedTuple):
    """Where a graph lies, in pixels, and what it spans."""

    top: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        """Give the pixel of a step."""
        share = (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Give the pixel of a value; one above or below the range is put on the edge."""
        share = (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top)


def loss_plot(
    steps: Sequence[int], losses: Sequence[float], lrs: Sequence[float], title: str = "Loss"
) -> Image.Image:
    """Plot losses, raw and smoothed, and learning rates over steps: three rows of equal length.

    Values that are not finite are left out; single spikes are cut at the upper edge.
    """
    x, raw, rates = (np.asarray(list(row), dtype=np.float64) for row in (steps, losses, lrs))
    if not len(x) == len(raw) == len(rates):
        raise ValueError(f"{len(x)} steps, {len(raw)} losses and {len(rates)} learning rates")
    smooth = smoothed(raw)
    x_range = _spread(x, 0.0)
    split = HEIGHT - BOTTOM - LR_HEIGHT - BETWEEN
    upper = _Axes(TOP, split, x_range, loss_range(raw, smooth))
    lower = _Axes(split + BETWEEN, HEIGHT - BOTTOM, x_range, _spread(np.append(rates, 0.0), 0.05))
    plot = _Plot()
    for axes, many in ((upper, 6), (lower, 2)):
        plot.frame(axes, many)
    plot.curve(upper, (x, raw), RAW, 1 if len(x) > WIDTH // 4 else 2)
    plot.curve(upper, (x, smooth), SMOOTH, 3)
    plot.curve(lower, (x, rates), RATE, 2)
    plot.write((LEFT, 24), title, 20, "l")
    finite = smooth[np.isfinite(smooth)]
    last = f"smoothed {finite[-1]:.4g} at step {steps[-1]}" if len(finite) else "no values"
    plot.write((WIDTH - RIGHT, 24), last, 15, "r", SMOOTH)
    plot.write((LEFT, split + BETWEEN - 12), "learning rate", 13, "l", RATE)
    for value in nice_ticks(*x_range, 8):
        if value == round(value):
            plot.write((lower.x(value), HEIGHT - BOTTOM + 12), f"{value:.0f}", 13, "m")
    plot.write((WIDTH - RIGHT, HEIGHT - 14), "step", 13, "r")
    return plot.finished()


def smoothed(values: np.ndarray) -> np.ndarray:
    """Average exponentially over about a twentieth of all values, (N,), without a slow start.

    The divisor takes out the pull to 0 (Kingma and Ba 2015, section 3). Values that are not finite
    are passed over; before the first finite one the result is NaN.
    """
    decay = 1 - 1 / min(max(5.0, len(values) / 20), 500.0)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for index, value in enumerate(values.tolist()):
        if math.isfinite(value):
            total = decay * total + (1 - decay) * value
            weight = decay * weight + (1 - decay)
        if weight > 0:
            result[index] = total / weight
    return result


def loss_range(raw: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    """Span from 0 (or a lowest value below it) to all but the highest 2 % of the values."""
    finite = raw[np.isfinite(raw)]
    if not len(finite):
        return 0.0, 1.0
    top = max(float(np.quantile(finite, 0.98)), float(np.nanmax(smooth)))
    bottom = min(0.0, float(finite.min()))
    return (bottom, top * 1.05) if top > bottom else (bottom, bottom + 1)


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Give at most `most` + 1 round values within [low, high]: multiples of 1, 2 or 5 x 10^n."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def _spread(values: np.ndarray, more: float) -> tuple[float, float]:
    """Span finite values, and a share `more` of the span above; never of no width."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if high <= low:
        return low - 0.5, low + 0.5
    return low, high + more * (high - low)


class _Plot(Canvas):
    """Frames and curves over steps."""

    def __init__(self) -> None:
        super().__init__(WIDTH, HEIGHT)

    def frame(self, axes: _Axes, most: int) -> None:
        """Draw the box of a graph with lines and numbers at round values."""
        for value in nice_ticks(*axes.y_range, most):
            y = axes.y(value)
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], LINES)
            self.write((LEFT - 8, y), f"{value:g}", 13, "r")
        corners = [(LEFT, axes.top), (WIDTH - RIGHT, axes.top), (WIDTH - RIGHT, axes.bottom)]
        self.line([*corners, (LEFT, axes.bottom), (LEFT, axes.top)], FRAME)

    def curve(
        self, axes: _Axes, points: tuple[np.ndarray, np.ndarray], ink: Colour, width: int
    ) -> None:
        """Draw a curve; gaps where values are not finite, the extremes where pixels hold many."""
        x, y = points
        for part in np.array_split(np.arange(len(x)), _breaks(y)):
            part = part[np.isfinite(y[part])]
            line = [(axes.x(float(x[i])), axes.y(float(y[i]))) for i in _extremes(part, y)]
            if len(line) == 1:
                self.dot(line[0], ink)
            elif line:
                self.line(line, ink, width)


def _breaks(y: np.ndarray) -> np.ndarray:
    """Give the places of a row at which a run of finite values begins or ends."""
    return np.flatnonzero(np.diff(np.isfinite(y).astype(np.int8))) + 1


def _extremes(part: np.ndarray, y: np.ndarray) -> list[int]:
    """Of long runs keep, for each pixel column, the places of the least and the greatest value."""
    if len(part) <= 4 * WIDTH:
        return part.tolist()
    kept: set[int] = {int(part[0]), int(part[-1])}
    for group in np.array_split(part, WIDTH):
        kept |= {int(group[np.argmin(y[group])]), int(group[np.argmax(y[group])])}
    return sorted(kept)
