"""A training's events on its node: bar, text, chart, pictures, and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..core.events import (
    Event,
    Finding,
    PhaseProgress,
    PhaseStarted,
    Planned,
    PreviewReady,
    Saved,
    StepDone,
)
from ..core.session import Trained, loss_plot
from .protocol import Progress, Source
from .values import Lora

_PAUSE = 0.2  # seconds between two messages to the page
_PHASES = {
    "text": "encoding captions",
    "latents": "encoding pictures",
    "train": "training",
    "save": "saving and checking",
}


class Display:
    """Listens to a training and shows it; `losses` and `rates` are those of all its steps."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self._progress, self._clock = progress, clock
        self._picture: Image.Image | None = None
        self._findings: tuple[Finding, ...] = ()
        self._lines: list[str] = []
        self._sent, self._last_sent, self._began = 0, 0.0, 0.0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Planned):
            self._planned(event)
        elif isinstance(event, PhaseStarted):
            self._began = self._clock()
            self._progress.say(_PHASES.get(event.name, event.name))
        elif isinstance(event, PhaseProgress) and event.name != "save":
            self._progress.bar(event.done, event.total)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, PreviewReady):
            self._show(event)
        elif isinstance(event, Saved):
            self._lines.append(f"{event.kind}: {event.path}")

    def _planned(self, event: Planned) -> None:
        self._findings = event.findings
        self._progress.send(
            "train",
            {"steps": event.steps, "images": event.images, "buckets": event.buckets, "fresh": True},
        )

    def _step(self, event: StepDone) -> None:
        self.losses.append(event.loss)
        self.rates.append(event.lr)
        now = self._clock()
        is_last = event.step == event.steps
        if now - self._last_sent < _PAUSE and not is_last:
            return
        self._last_sent = now
        self._progress.bar(event.step, event.steps, self._picture)
        self._picture = None
        took = (now - self._began) / max(1, len(self.losses))
        left = took * (event.steps - event.step)
        self._progress.say(
            f"step {event.step} of {event.steps} · loss {event.loss:.4f} · rate {event.lr:.2e} · "
            f"{took:.2f} s a step · {duration(left)} left"
        )
        self._send_losses(event)

    def _send_losses(self, event: StepDone) -> None:
        first = event.step - len(self.losses) + self._sent + 1
        fresh = self.losses[self._sent :], self.rates[self._sent :]
        self._sent = len(self.losses)
        self._progress.send(
            "train", {"steps": event.steps, "first": first, "losses": fresh[0], "rates": fresh[1]}
        )

    def _show(self, event: PreviewReady) -> None:
        with Image.open(event.path) as picture:
            self._picture = picture.convert("RGB")
        self._progress.bar(event.step, event.step, self._picture)

    def taken_from(self, path: Path) -> None:
        """Say that nothing was trained: the same training lies there finished."""
        self._lines.append(f"the same settings and pictures were trained before: {path}")

    def trained(self, trained: Trained) -> None:
        """Take a finished or stopped training's whole history: a resumed one began earlier."""
        self.losses = list(trained.history.losses)
        self.rates = list(trained.history.lrs)
        what = "stopped" if trained.stopped else "finished"
        self._lines.append(f"{what} at step {trained.steps}")

    def finished(self, plot: Image.Image, report: str) -> None:
        """Leave the plot and the report on the node: a node with live previews shows no others."""
        self._progress.bar(1, 1, plot)
        self._progress.say(report)

    def report(self, lora: Lora, *, patches: int, source: Source) -> str:
        """What was trained on what, where it lies, and what is worth knowing of it."""
        lines = [f"LoRA {lora.name}: {len(lora.layers())} layers, in {lora.path}"]
        if source.checkpoint:
            lines.append(f"base model: {source.checkpoint}")
        if patches:
            lines.append(
                f"patches on {patches} weights of the incoming MODEL and CLIP: {source.patches}"
            )
        lines += self._lines
        if self.losses:
            tail = self.losses[-max(1, len(self.losses) // 10) :]
            lines.append(f"loss at the end: {sum(tail) / len(tail):.4f}")
        lines += [f"{finding.level}: {finding.text}" for finding in self._findings]
        return "\n".join(lines)


class Moved:
    """Moves the bar of a node whose work has phases and parts, and says what it is doing."""

    def __init__(self, progress: Progress, doing: str) -> None:
        self._progress, self._doing = progress, doing

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, PhaseStarted):
            self._progress.say(f"{self._doing}: {event.total} parts")
        elif isinstance(event, PhaseProgress):
            self._progress.bar(event.done, event.total)


def loss_picture(losses: list[float], rates: list[float]) -> Image.Image:
    """The loss plot of a training."""
    return loss_plot(range(1, len(losses) + 1), losses, rates)


def duration(seconds: float) -> str:
    """Seconds in words: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
