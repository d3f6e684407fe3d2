"""Reading losses back from the device without ever waiting for it."""

from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor


class _Pending(NamedTuple):
    step: int
    value: Tensor
    copied: torch.cuda.Event | None


class LossReadback:
    """A queue of 0-dim losses on their way to the host, in order.

    On a GPU each is copied to pinned memory behind the kernels that make it and handed out once it
    has arrived, usually one or two steps later; on a CPU it is there at once.
    """

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def push(self, step: int, loss: Tensor) -> None:
        """Queue the loss of `step` (counted from 1)."""
        if loss.device.type != "cuda":
            self._pending.append(_Pending(step, loss, None))
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._pending.append(_Pending(step, host, copied))

    def ready(self) -> list[tuple[int, float]]:
        """The losses that have arrived, oldest first."""
        arrived = []
        while self._pending:
            copied = self._pending[0].copied
            if copied is not None and not copied.query():
                break
            arrived.append(self._take())
        return arrived

    def drain(self) -> list[tuple[int, float]]:
        """All that is left, waiting for it: for the end of a run."""
        left = []
        while self._pending:
            copied = self._pending[0].copied
            if copied is not None:
                copied.synchronize()
            left.append(self._take())
        return left

    def _take(self) -> tuple[int, float]:
        pending = self._pending.popleft()
        return pending.step, float(pending.value)
