"""The proof that a host's model is afterwards as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import HostChangedError
from .live import LiveModel
from .samples import checksums

FULL_BYTES = 256 << 20
"""Models of up to so many bytes are summed up whole, larger ones sampled."""
_SAMPLE_BYTES = 1 << 16  # of each tensor of a larger one
_GLANCES = 8  # after which the contents of every tensor were looked at
_NAMED = 3  # tensors or modules that a report names before it only counts


class TensorFacts(NamedTuple):
    """Where a tensor lies and how it takes part in autograd."""

    storage: tuple[int, torch.device, torch.dtype, tuple[int, ...], tuple[int, ...]]
    requires_grad: bool
    grad: Tensor | None


class ModuleFacts(NamedTuple):
    """What a module computes by: itself, its forward, its class's, its hooks; and its mode."""

    module: nn.Module
    forward: Any
    class_forward: Any
    hooks: tuple[tuple[str, tuple[Any, ...]], ...]
    training: bool


class Receipt:
    """All that can be seen of a host's model, compared with how it is later.

    Contents are checksums of all bytes, of models beyond FULL_BYTES of evenly spaced samples of
    each tensor: a merged LoRA or another checkpoint is found in either, a single changed number
    only in full.
    """

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        tensors = _tensors(live)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._limit = None if size <= FULL_BYTES else _SAMPLE_BYTES
        self._tensors = {name: _tensor_facts(tensor) for name, tensor in tensors.items()}
        self._sums = self._contents(tensors)
        self._modules = _modules(live)
        self._glances = 0

    def changes(self) -> tuple[str, ...]:
        """Everything that differs now, in words; nothing where the model is as it was."""
        tensors = _tensors(self._live)
        return (*self._of_tensors(tensors), *self._of_contents(tensors), *self._of_modules())

    def glance(self) -> tuple[str, ...]:
        """Whether the weights were replaced, or overwritten in those looked at this time."""
        tensors = _tensors(self._live)
        names = list(tensors)[self._glances % _GLANCES :: _GLANCES]
        self._glances += 1
        looked_at = {name: tensors[name] for name in names}
        return (*self._replaced(tensors), *self._of_contents(looked_at))

    def renew(self) -> tuple[str, ...]:
        """After the host has worked in between: take where it has put its weights as given.

        Hosts move weights between devices when they draw, and put them elsewhere afterwards. What
        is not only moved but different is returned in words, and the old places stay expected.
        """
        tensors = _tensors(self._live)
        before = {name: facts.storage for name, facts in self._tensors.items()}
        known = {name: tensor for name, tensor in tensors.items() if name in before}
        lost = [name for name in before if name not in tensors]
        now = self._contents(known)
        changes = (
            *_told("tensor gone", lost),
            *_told("content changed", [n for n in known if now.get(n) != self._sums.get(n)]),
        )
        if not changes:
            self._tensors = {name: _tensor_facts(tensor) for name, tensor in tensors.items()}
        return changes

    def _contents(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
        there = {name: tensor for name, tensor in tensors.items() if tensor.device.type != "meta"}
        return dict(zip(there, checksums(list(there.values()), self._limit), strict=True))

    def _of_contents(self, tensors: Mapping[str, Tensor]) -> Iterator[str]:
        same_place = {
            name: tensor
            for name, tensor in tensors.items()
            if name in self._sums and _tensor_facts(tensor).storage == self._tensors[name].storage
        }
        now = self._contents(same_place)
        yield from _told("content changed", [n for n in now if now[n] != self._sums[n]])

    def _replaced(self, tensors: Mapping[str, Tensor]) -> Iterator[str]:
        before, now = self._tensors, {name: _tensor_facts(t) for name, t in tensors.items()}
        both = [name for name in before if name in now]
        yield from _told("tensor gone", [name for name in before if name not in now])
        yield from _told("tensor new", [name for name in now if name not in before])
        for words, place in (("device", 1), ("dtype", 2), ("shape", 3), ("storage", 0)):
            changed = [n for n in both if before[n].storage[place] != now[n].storage[place]]
            yield from _told(f"{words} changed", changed)
            both = [name for name in both if name not in set(changed)]
        changed = [n for n in both if before[n].storage[4] != now[n].storage[4]]
        yield from _told("strides changed", changed)

    def _of_tensors(self, tensors: Mapping[str, Tensor]) -> Iterator[str]:
        yield from self._replaced(tensors)
        now = {name: _tensor_facts(tensor) for name, tensor in tensors.items()}
        both = [(name, facts, now[name]) for name, facts in self._tensors.items() if name in now]
        flags = [name for name, a, b in both if a.requires_grad != b.requires_grad]
        yield from _told("requires_grad changed", flags)
        yield from _told("grad changed", [name for name, a, b in both if a.grad is not b.grad])

    def _of_modules(self) -> Iterator[str]:
        now = _modules(self._live)
        before = self._modules
        yield from _told("module gone", [name for name in before if name not in now])
        yield from _told("module new", [name for name in now if name not in before])
        for words, same in _MODULE_CHECKS.items():
            changed = [n for n in before if n in now and not same(before[n], now[n])]
            yield from _told(words, changed)


_MODULE_CHECKS: dict[str, Callable[[ModuleFacts, ModuleFacts], bool]] = {
    "module replaced": lambda a, b: a.module is b.module,
    "forward replaced": lambda a, b: a.forward is b.forward,
    "class's forward replaced": lambda a, b: a.class_forward is b.class_forward,
    "hooks changed": lambda a, b: a.hooks == b.hooks,
    "training mode changed": lambda a, b: a.training == b.training,
}


@contextmanager
def unchanged(live: LiveModel) -> Iterator[Receipt]:
    """Raise HostChangedError after the block where the host's model is not as it was.

    Where the block itself ends in an error, that is told as well, and is its cause.
    """
    receipt = Receipt(live)
    try:
        yield receipt
    except BaseException as error:
        changes = receipt.changes()
        if changes:
            told = str(error) or type(error).__name__
            message = f"{told.rstrip('.')}. Besides, {_sentence(live, changes)}"
            raise HostChangedError(message) from error
        raise
    changes = receipt.changes()
    if changes:
        raise HostChangedError(_sentence(live, changes))


def _sentence(live: LiveModel, changes: Sequence[str]) -> str:
    return (
        f"the host's model {live.facts.name} is not as it was before the training: "
        f"{'; '.join(changes)}. Load it anew in the host before you draw with it"
    )


def _tensors(live: LiveModel) -> dict[str, Tensor]:
    """Every tensor of the host's networks, buffers too, by part and name."""
    found: dict[str, Tensor] = {}
    for part, weights in live.parts.items():
        if isinstance(weights, nn.Module):
            own: dict[str, Tensor] = {
                **dict(weights.named_parameters(remove_duplicate=False)),
                **dict(weights.named_buffers(remove_duplicate=False)),
            }
        else:
            own = dict(weights)
        found.update({f"{part}.{name}": tensor for name, tensor in own.items()})
    return found


def _tensor_facts(tensor: Tensor) -> TensorFacts:
    place = 0 if tensor.device.type == "meta" else tensor.data_ptr()
    return TensorFacts(
        storage=(place, tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()),
        requires_grad=tensor.requires_grad,
        grad=tensor.grad if tensor.is_leaf else None,
    )


def _modules(live: LiveModel) -> dict[str, ModuleFacts]:
    return {
        f"{part}.{name}" if name else part: _module_facts(module)
        for part, root in live.modules.items()
        for name, module in root.named_modules()
    }


def _module_facts(module: nn.Module) -> ModuleFacts:
    own = vars(module)
    hooks = (
        (key, tuple(value.values()))
        for key, value in own.items()
        if key.endswith("hooks") and isinstance(value, Mapping) and value
    )
    return ModuleFacts(
        module=module,
        forward=own.get("forward"),
        class_forward=type(module).forward,
        hooks=tuple(hooks),
        training=module.training,
    )


def _told(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        yield f"{what}: {len(names)} ({', '.join(names[:_NAMED])}{more})"
