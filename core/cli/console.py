"""What the command line shows: lines of text, progress bars, and the stop keys."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from ..events import (
    Event,
    Finding,
    Finished,
    PhaseProgress,
    PhaseStarted,
    Planned,
    PreviewReady,
    Saved,
    StepDone,
)

PHASES = {
    "scan": "Reading the pictures",
    "caption": "Captioning",
    "text": "Encoding captions",
    "latents": "Encoding pictures",
    "train": "Training",
    "save": "Saving and checking",
    "preview": "Drawing",
    "analysis": "Measuring the blocks",
}
_SMOOTHING = 0.05
STOPPED = 130  # exit status of a run that the user stopped


def say(text: str = "") -> None:
    """One line to the user, above any progress bar."""
    tqdm.write(text, file=sys.stdout)


def say_finding(finding: Finding) -> None:
    """A finding as one line, with the file that it is about."""
    place = f" ({finding.path})" if finding.path is not None else ""
    say(f"  {finding.level}: {finding.text}{place}")


def readable_bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


class Console:
    """Shows the events of a run: one progress bar a phase, findings and files as lines."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._smoothed = 0.0
        self._weight = 0.0
        self._images_before: int | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        shows = {
            Planned: self._planned,
            PhaseStarted: self._phase_started,
            PhaseProgress: self._phase_progress,
            StepDone: self._step_done,
            Saved: self._saved,
            PreviewReady: self._preview_ready,
            Finished: self._finished,
        }
        show = shows.get(type(event))
        if show is not None:  # a picture is nothing for a terminal
            show(event)

    def close(self) -> None:
        """Take the bar away, so that an error starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _planned(self, event: Planned) -> None:
        say(
            f"{event.images} pictures in {event.buckets} buckets, {event.epochs} epochs, "
            f"{event.steps} steps; the file will have {readable_bytes(event.file_bytes)}, "
            f"memory about {readable_bytes(event.memory_bytes)}"
        )
        for finding in event.findings:
            say_finding(finding)

    def _phase_started(self, event: PhaseStarted) -> None:
        self.close()
        unit = "step" if event.name == "train" else "it"
        self._bar = tqdm(
            total=event.total,
            desc=PHASES.get(event.name, event.name),
            unit=unit,
            leave=False,
            dynamic_ncols=True,
        )
        self._images_before = None

    def _phase_progress(self, event: PhaseProgress) -> None:
        if self._bar is not None:
            self._bar.update(event.done - self._bar.n)

    def _step_done(self, event: StepDone) -> None:
        self._smoothed += _SMOOTHING * (event.loss - self._smoothed)
        self._weight += _SMOOTHING * (1.0 - self._weight)
        if self._bar is None:
            return
        if self._images_before is None:  # a resumed run starts in the middle
            self._images_before = event.images
            self._bar.initial = self._bar.n = event.step - 1
        self._bar.update(event.step - self._bar.n)
        elapsed = self._bar.format_dict["elapsed"]
        rate = (event.images - self._images_before) / elapsed if elapsed > 0 else 0.0
        self._bar.set_postfix(
            {
                "loss": f"{event.loss:.4f}",
                "smoothed": f"{self._smoothed / self._weight:.4f}",
                "images/s": f"{rate:.2f}",
                "lr": f"{event.lr:.1e}",
            },
            refresh=False,
        )

    def _saved(self, event: Saved) -> None:
        if event.kind == "state":
            return  # every few steps: the bar says enough
        say(f"  wrote {event.path}")

    def _preview_ready(self, event: PreviewReady) -> None:
        say(f"  step {event.step}: {event.path}")

    def _finished(self, event: Finished) -> None:
        self.close()
        how = "stopped" if event.stopped else "finished"
        say(f"{how} after {event.steps} steps")
        for finding in event.findings:
            say_finding(finding)


@contextmanager
def stop_on_signals(kept: str = "what was trained is kept") -> Iterator[threading.Event]:
    """An event that is set by Ctrl+C or a request to end; a second Ctrl+C ends at once.

    kept: what to say of the work so far. The handlers that were there before are put back.
    """
    wanted = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()
        # Written straight to the terminal: the signal may have come amid a write of the bar's.
        os.write(2, f"\nStopping after this step; {kept}.\n".encode())

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), ask) for name in names}
    try:
        yield wanted
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
