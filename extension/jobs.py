"""All work that takes long, one job after another in one thread that outlives every page.

Pages come and go ("Reload UI", a closed browser); the board, its jobs and what they have made
stay as long as the process does.
"""

import errno
import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ..core.errors import TrainerError
from ..core.events import Event, StepDone, ignore, never
from .progress import Progress

State = Literal["waiting", "running", "paused", "stopping", "done", "stopped", "failed"]
OVER: frozenset[State] = frozenset({"done", "stopped", "failed"})
T = TypeVar("T")
logger = logging.getLogger("lora_loop")
_MOST_KEPT = 20  # jobs that are over, newest first


class Controls:
    """What the work of a job is given: where its events go, and whether it is to end."""

    def __init__(self, job: "Job", board: "Board") -> None:
        self._job, self._board = job, board

    def on_event(self, event: Event) -> None:
        """Take note of an event; between two steps of a training, rest where a pause is wanted."""
        self._job.progress(event)
        self._board.tools.show(event)
        if isinstance(event, StepDone):
            self._job.rest(self._board.tools.rest)

    def stop(self) -> bool:
        """Whether the user wants an end."""
        if self._board.tools.wants_stop():
            self._job.stop_wanted.set()
        return self._job.stop_wanted.is_set()

    def note(self, text: str) -> None:
        """Add a line to the job's log."""
        self._job.progress.note(text)

    def attempt(self, work: Callable[[], T], failed: str) -> T | None:
        """Do a part that the job can do without: where it fails, a warning says so.

        failed: what the warning begins with.
        """
        try:
            return work()
        except TrainerError as error:
            text = str(error)
        except Exception as error:  # the edge of the job thread, as below
            logger.exception("%s: %s", self._job.title, failed)
            text = explain(error)
        self._job.progress.warn(f"{failed}{text}")
        return None


Work = Callable[[Controls], Any]


@dataclass(eq=False, slots=True)
class Job:
    """One piece of work. error: why it failed, in the user's words.

    work: None once it is done. result: what it returned, until somebody takes it. Both may hold
    networks and pictures, and jobs that are over are remembered for long.
    """

    number: int
    kind: str
    title: str
    work: Work | None
    state: State = "waiting"
    progress: Progress = field(default_factory=Progress)
    error: str = ""
    result: Any = None
    stop_wanted: threading.Event = field(default_factory=threading.Event)
    pause_wanted: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def take(self) -> Any:
        """Wait for the end, and take the result away; None where it failed or was stopped."""
        self.over.wait()
        result, self.result = self.result, None
        return result

    def rest(self, resting: Callable[[], AbstractContextManager[None]]) -> None:
        """Wait while a pause is wanted, and let others work meanwhile."""
        if not self.pause_wanted.is_set() or self.stop_wanted.is_set():
            return
        self.state = "paused"
        with resting():
            self.go_on.wait()
        self.progress.restart_pace()
        self.state = "stopping" if self.stop_wanted.is_set() else "running"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the board needs of a host; the defaults are those of a program without one."""

    show: Callable[[Event], None] = ignore
    wants_stop: Callable[[], bool] = never
    rest: Callable[[], AbstractContextManager[None]] = nullcontext


class Board:
    """The queue and its thread; every method may be called from any thread."""

    def __init__(self, tools: Tools | None = None) -> None:
        self.tools = tools or Tools()
        self._numbers = itertools.count(1)
        self._waiting: list[Job] = []
        self._current: Job | None = None
        self._past: list[Job] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, kind: str, title: str, work: Work) -> Job:
        """Put work at the end of the queue."""
        job = Job(next(self._numbers), kind, title, work)
        with self._changed:
            self._waiting.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work_off, name="lora-loop", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
        return job

    def jobs(self) -> list[Job]:
        """The current one, then those that wait, then those that are over, newest first."""
        with self._changed:
            now = [self._current] if self._current else []
            return [*now, *self._waiting, *self._past]

    def current(self) -> Job | None:
        """The job that is being worked on."""
        return self._current

    def job(self, number: int) -> Job | None:
        """The job of that number, while it is remembered."""
        return next((job for job in self.jobs() if job.number == number), None)

    def stop(self, number: int) -> None:
        """End a job after its step, or take it out of the queue."""
        with self._changed:
            for job in self._waiting:
                if job.number == number:
                    self._waiting.remove(job)
                    self._finish(job, "stopped")
                    return
            job = self._current
            if job is not None and job.number == number:
                job.stop_wanted.set()
                job.state = "stopping"
                job.go_on.set()

    def pause(self, number: int) -> None:
        """Have a training rest after its step, so that the host may work."""
        with self._changed:
            job = self._current
            if job is not None and job.number == number:
                job.go_on.clear()
                job.pause_wanted.set()

    def go_on(self, number: int) -> None:
        """End a pause."""
        with self._changed:
            job = self._current
            if job is not None and job.number == number:
                job.pause_wanted.clear()
                job.go_on.set()

    def _work_off(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._current = self._waiting.pop(0)
            state = self._run(job)
            with self._changed:
                self._current = None
                self._finish(job, state)
            del job  # while the thread waits for the next one

    def _run(self, job: Job) -> State:
        job.state, job.progress = "running", Progress()
        try:
            job.result = job.work(Controls(job, self)) if job.work else None
        except TrainerError as error:
            job.error = str(error)
        except Exception as error:  # the edge of the job thread: the user sees the text
            logger.exception("%s failed", job.title)
            job.error = explain(error)
        if job.error:
            job.progress.note(job.error, "error")
            return "failed"
        return "stopped" if job.stop_wanted.is_set() else "done"

    def _finish(self, job: Job, state: State) -> None:
        job.state, job.work = state, None
        self._past.insert(0, job)
        del self._past[_MOST_KEPT:]
        job.over.set()


def explain(error: BaseException) -> str:
    """An error that is not one of ours, in the user's words: what it was and what to do."""
    kind, text = type(error).__name__, str(error).strip().splitlines()
    first = text[0] if text else ""
    if isinstance(error, MemoryError) or "OutOfMemory" in kind or "out of memory" in first.lower():
        return (
            "the memory is full: lower training.batch_size or dataset.resolution, or set "
            f"memory.gradient_checkpointing to true, then start again ({kind}: {first})"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: free some space, then go on with the stopped training ({first})"
    return f"unexpected: {kind}: {first}; the terminal shows where it happened"
