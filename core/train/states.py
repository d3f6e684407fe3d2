"""When resume states are written: every so many steps, on a stop, and when a run breaks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..log import logger


class StateKeeper:
    """Writes states through `write(step)`, not twice for one step.

    every: steps between two states; 0 writes none on the way.
    """

    def __init__(self, write: Callable[[], None], every: int, step: int = 0) -> None:
        self._write, self._every, self._written_at = write, every, step

    def after_step(self, step: int) -> None:
        """Write a state where one is due."""
        if self._every and step % self._every == 0:
            self.keep(step)

    def keep(self, step: int) -> None:
        """Write a state of `step` unless it is there already."""
        if step > self._written_at:
            self._write()
            self._written_at = step

    @contextmanager
    def kept_on_error(self, position: Callable[[], int]) -> Iterator[None]:
        """Keep what was trained so far when the block breaks; the error goes on its way."""
        whole = False
        try:
            yield
            whole = True
        finally:
            if not whole:
                logger.warning("the training broke at step %d; keeping its state", position())
                self.keep(position())
