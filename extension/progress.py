"""What a job has done so far, gathered from its events, and safe to look at from any thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from ..core.events import (
    CellDrawn,
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
from .cells import CellSheet

_MOST_LINES = 200

Kind = Literal["phase", "file", "finding", "picture", "error", "note"]


class Line(NamedTuple):
    """One line of a job's log: seconds since its start, what it is about, and its text."""

    seconds: float
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A job's progress at one instant.

    done, total: parts of the phase. step, steps: of a training. losses, lrs: one for each of the
    steps from `first_step`. rate: pictures trained on in a second. seconds_left: of the phase;
    None where nobody can tell yet. pictures: drawn on the way, with their step. sheet: the address
    of an image of a grid's cells so far; empty where none is drawn.
    """

    phase: str = ""
    done: int = 0
    total: int = 0
    step: int = 0
    steps: int = 0
    first_step: int = 1
    losses: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    rate: float = 0.0
    seconds_left: float | None = None
    planned: Planned | None = None
    pictures: tuple[tuple[int, Path], ...] = ()
    sheet: str = ""
    files: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()
    log: tuple[Line, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class _Pace:
    """When a phase began, and what was done by then."""

    began: float = 0.0
    done: int = 0
    images: int = 0

    def left(self, now: float, done: int, total: int) -> float | None:
        newly = done - self.done
        return (now - self.began) / newly * (total - done) if newly > 0 else None


@dataclass(slots=True)
class Progress:
    """Takes events in one thread and gives snapshots in any; `clock` counts seconds."""

    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _now: Snapshot = field(default_factory=Snapshot)
    _losses: list[float] = field(default_factory=list)
    _lrs: list[float] = field(default_factory=list)
    _log: list[Line] = field(default_factory=list)
    _pace: _Pace = field(default_factory=_Pace)
    _cells: CellSheet = field(default_factory=CellSheet)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def __call__(self, event: Event) -> None:
        """Take note of an event; of those for other eyes there is none."""
        takes = {
            Planned: self._planned,
            PhaseStarted: self._phase_started,
            PhaseProgress: self._phase_progress,
            StepDone: self._step_done,
            Saved: self._saved,
            PreviewReady: self._preview_ready,
            CellDrawn: self._cell_drawn,
            Finished: self._finished,
        }
        take = takes.get(type(event))
        if take is not None:
            with self._lock:
                take(event)

    def note(self, text: str, kind: Kind = "note") -> None:
        """Add a line to the log."""
        with self._lock:
            self._write(kind, text)

    def warn(self, text: str) -> None:
        """Add what the user should know to the findings, and to the log."""
        with self._lock:
            found = Finding(level="warning", text=text)
            self._now = replace(self._now, findings=(*self._now.findings, found))
            self._write("finding", text)

    def restart_pace(self) -> None:
        """Forget the speed so far: the job has rested."""
        with self._lock:
            done = self._now.step if self._now.phase == "train" else self._now.done
            self._pace = _Pace(self.clock(), done, self._pace.images)

    def snapshot(self) -> Snapshot:
        """How things stand."""
        with self._lock:
            return replace(
                self._now,
                losses=tuple(self._losses),
                lrs=tuple(self._lrs),
                log=tuple(self._log),
                seconds=self.clock() - self._began,
            )

    def _write(self, kind: Kind, text: str) -> None:
        self._log.append(Line(self.clock() - self._began, kind, text))
        del self._log[:-_MOST_LINES]

    def _planned(self, event: Planned) -> None:
        self._now = replace(self._now, planned=event, steps=event.steps, findings=event.findings)
        for finding in event.findings:
            self._write("finding", finding.text)

    def _phase_started(self, event: PhaseStarted) -> None:
        self._pace = _Pace(self.clock())
        self._now = replace(
            self._now, phase=event.name, done=0, total=event.total, seconds_left=None
        )
        self._write("phase", event.name)

    def _phase_progress(self, event: PhaseProgress) -> None:
        left = self._pace.left(self.clock(), event.done, event.total)
        self._now = replace(
            self._now, phase=event.name, done=event.done, total=event.total, seconds_left=left
        )

    def _step_done(self, event: StepDone) -> None:
        now = self.clock()
        if not self._losses:  # a resumed run starts in the middle
            self._now = replace(self._now, first_step=event.step)
        if self._pace.images == 0:  # nor does the first step after a rest tell the speed
            self._pace = _Pace(now, event.step, event.images)
        seconds = now - self._pace.began
        self._losses.append(event.loss)
        self._lrs.append(event.lr)
        self._now = replace(
            self._now,
            phase="train",
            done=event.step,
            total=event.steps,
            step=event.step,
            steps=event.steps,
            rate=(event.images - self._pace.images) / seconds if seconds > 0 else 0.0,
            seconds_left=self._pace.left(now, event.step, event.steps),
        )

    def _saved(self, event: Saved) -> None:
        if event.kind == "state":
            return  # every few steps: the network file is what users look for
        self._now = replace(self._now, files=(*self._now.files, event.path))
        self._write("file", str(event.path))

    def _preview_ready(self, event: PreviewReady) -> None:
        self._now = replace(
            self._now, phase="train", pictures=(*self._now.pictures, (event.step, event.path))
        )
        self._write("picture", f"{event.step}: {event.path}")

    def _cell_drawn(self, event: CellDrawn) -> None:
        self._cells.take(event)
        self._now = replace(self._now, sheet=self._cells.source())

    def _finished(self, event: Finished) -> None:
        self._now = replace(self._now, findings=event.findings)
