"""Steps recorded once as CUDA graphs and replayed: thousands of kernels launched by one call.

At the batch sizes of LoRA training a GPU waits for Python, which launches some 8 000 kernels for a
step of SD 1.5. What is recorded is all from the noisy latents to the factors' gradients; draws,
text encoders in training and the optimizer stay outside. The kernels are those of a step that is
not recorded, the result is the same but for rounding.

Source: Nguyen, Carilli, Eryilmaz et al. 2021, "Accelerating PyTorch with CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.memory import MemoryConfig
from ..log import logger
from ..models.text import Condition
from .step import Draws, Latents

MOST = 32
"""Shapes that are recorded in one run; each takes some ten megabytes beside what all share."""


class StepInputs(NamedTuple):
    """All that a micro-batch's loss is made of, on the device. sizes: (B, 6), SDXL only."""

    latents: Latents
    draws: Draws
    condition: Condition
    sizes: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> StepInputs:
        """The same with every tensor changed."""
        pooled, sizes = self.condition.pooled, self.sizes
        return StepInputs(
            Latents(*map(change, self.latents)),
            Draws(*map(change, self.draws)),
            Condition(change(self.condition.context), None if pooled is None else change(pooled)),
            None if sizes is None else change(sizes),
        )

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        every = (*self.latents, *self.draws, *self.condition, self.sizes)
        return [tensor for tensor in every if tensor is not None]


# Adds a micro-batch's gradients to those of the network; its loss, without a graph.
Work = Callable[[StepInputs, int], Tensor]
# Records what a function does on the device, without doing it; a call of the result does it.
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
# Goes on with a backward pass: what was made of the text encoders, and its gradients.
Backward = Callable[[list[Tensor], list[Tensor]], None]


@cache
def _stream(device: torch.device) -> Any:
    """The stream to record on; one for all trainings, as cuBLAS keeps some memory for each."""
    return torch.cuda.Stream(device)


class CudaRecorder:
    """Records into graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Record; a RuntimeError where something in `run` can't be."""
        graph = torch.cuda.CUDAGraph()
        # a host's other threads may use the device meanwhile
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            loss = run()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


def recorder_for(device: torch.device, memory: MemoryConfig) -> Record | None:
    """What records steps on this device; None where they are not recorded."""
    # what is computed twice asks for the state of the GPU's random numbers, which no graph can
    wanted = memory.cuda_graphs and not memory.gradient_checkpointing
    able = device.type == "cuda" and torch.version.hip is None  # AMD's cards are "cuda" as well
    # CUDA's own allocator, which ComfyUI chooses where it can, knows no common pool
    if able and wanted and torch.cuda.get_allocator_backend() == "native":
        return CudaRecorder(device)
    return None


class RecordedSteps:
    """Does the work of micro-batches: the first of a shape step by step, all others by replaying.

    parameters: what the work reads beside its inputs; where one of them has been moved, all is
    recorded anew. What can't be recorded is done step by step, with a warning.
    """

    def __init__(
        self, work: Work, backward: Backward, parameters: list[Tensor], record: Record
    ) -> None:
        self._work, self._backward, self._record = work, backward, record
        self._parameters = parameters
        self._places = self._where()
        self._met: set[tuple[Any, ...]] = set()
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._records = True

    def run(self, inputs: StepInputs, share: int) -> Tensor:
        """The loss of a micro-batch that is one of `share` in its step."""
        made = inputs.tensors()
        leaves = inputs.each(_leaf)
        loss = self._run(leaves, share)
        of_text = [
            (tensor, leaf.grad)
            for tensor, leaf in zip(made, leaves.tensors(), strict=True)
            if leaf.grad is not None
        ]
        if of_text:
            self._backward(*map(list, zip(*of_text, strict=True)))
        return loss

    def release(self) -> bool:
        """Give the recordings' memory back, and record no more; whether there was any."""
        held, self._records = bool(self._recorded), False
        self._recorded.clear()
        self._parameters = []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return held

    def _run(self, leaves: StepInputs, share: int) -> Tensor:
        if self._places != (places := self._where()):
            self._recorded.clear()
            self._places = places
        key = (share, *((tensor.shape, tensor.dtype) for tensor in leaves.tensors()))
        if key not in self._recorded and key in self._met and self._records:
            self._add(key, leaves, share)
        self._met.add(key)
        recorded = self._recorded.get(key)
        return self._work(leaves, share) if recorded is None else recorded.replay(leaves)

    def _add(self, key: tuple[Any, ...], leaves: StepInputs, share: int) -> None:
        if len(self._recorded) >= MOST:
            return
        try:
            self._recorded[key] = _Recorded(self._work, leaves, share, self._record)
        except RuntimeError as error:  # out of memory is one too
            logger.warning(
                "This training can't be recorded for the GPU and goes on step by step: %s",
                str(error).partition("\n")[0],
            )
            self.release()

    def _where(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._parameters]


class _Recorded:
    """The work on inputs of one shape, which lie where they lay when it was recorded."""

    def __init__(self, work: Work, leaves: StepInputs, share: int, record: Record) -> None:
        self._inputs = leaves.each(_static)
        self._gradients = [t.grad for t in self._inputs.tensors() if t.grad is not None]

        def run() -> Tensor:
            for gradient in self._gradients:
                gradient.zero_()
            return work(self._inputs, share)

        self._replay = record(run)

    @torch.no_grad()
    def _take(self, leaves: StepInputs) -> None:
        for own, leaf in zip(self._inputs.tensors(), leaves.tensors(), strict=True):
            own.copy_(leaf)

    def replay(self, leaves: StepInputs) -> Tensor:
        """The work on these inputs; a copy of the loss, which the next replay overwrites."""
        self._take(leaves)
        loss = self._replay().clone()
        for own, leaf in zip(self._inputs.tensors(), leaves.tensors(), strict=True):
            leaf.grad = own.grad
        return loss


def _leaf(tensor: Tensor) -> Tensor:
    """The tensor cut off from what made it, its gradient wanted where that wants one."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _static(leaf: Tensor) -> Tensor:
    """A copy that stays where it is, with a place for its gradient."""
    own = leaf.detach().clone().requires_grad_(leaf.requires_grad)
    own.grad = torch.zeros_like(own) if own.requires_grad else None
    return own
