"""Stops a training on a lent base model when the host changes the model under it."""

import time
from collections.abc import Callable

from ..errors import HostChangedError
from ..events import StopFlag
from ..models.base_model import BaseModel

_LEAST_PAUSE = 2.0  # seconds
_SHARE = 200  # of the time, one part goes into looking


class HostWatch:
    """A stop flag that is also true once the host's weights are not what was lent.

    Looks from time to time, so rarely that it costs half a percent of the time at most.
    """

    def __init__(
        self, base: BaseModel, stop: StopFlag, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = None if base.loan is None else base.loan.changes
        self._name, self._stop, self._clock = base.name, stop, clock
        self._next_look = clock() + _LEAST_PAUSE
        self._changes: tuple[str, ...] = ()

    def __call__(self) -> bool:
        """Whether to stop."""
        if self._clock() >= self._next_look:
            self._look_now()
        return bool(self._changes) or self._stop()

    def require_unchanged(self, saved: str) -> None:
        """Look once more and raise HostChangedError where there was or is a change.

        saved: what was kept of the training, in words.
        """
        if not self._changes:
            self._look_now()
        if self._changes:
            raise HostChangedError(
                f"the host has changed its model {self._name} during the training "
                f"({'; '.join(self._changes)}): the training was stopped, {saved}. Load that model "
                "again in the host to go on; change models and LoRAs only between trainings"
            )

    def _look_now(self) -> None:
        began = self._clock()
        if self._look is not None:
            self._changes = self._look()
        took = self._clock() - began
        self._next_look = began + max(_LEAST_PAUSE, _SHARE * took)
