"""When resume states are written: every so many steps, on a stop, and when a run breaks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import FileError
from ..log import logger
from .trainer import Trainer


class StateKeeper:
    """Writes states through `write()`, not twice for one step.

    every: steps between two states; 0 writes none on the way. step: where the run begins.
    """

    def __init__(self, write: Callable[[], None], every: int, step: int = 0) -> None:
        self._write, self._every, self._written_at = write, every, step

    def is_due(self, step: int) -> bool:
        """Whether a state is written after this step."""
        return bool(self._every) and step % self._every == 0

    def after_step(self, step: int) -> None:
        """Write a state where one is due; where it can't be written, the training goes on."""
        if not self.is_due(step):
            return
        try:
            self.keep(step)
        except FileError as error:
            logger.warning("no resume state of step %d: %s", step, error)

    def keep(self, step: int) -> None:
        """Write a state of `step` unless it is there already."""
        if step > self._written_at:
            self._write()
            self._written_at = step

    @contextmanager
    def kept_on_error(self, trainer: Trainer) -> Iterator[None]:
        """Keep what was trained so far when the block breaks; the error goes on its way."""
        whole = False
        try:
            yield
            whole = True
        finally:
            if not whole and trainer.between_steps:
                try:
                    self.keep(trainer.step)
                except FileError as error:
                    logger.warning("no resume state of step %d: %s", trainer.step, error)
