"""Networks of any algorithm on a base model, for use: every layer gets the weight W + m * delta.

While networks are attached, a layer's parameter is another one that holds the sum, and the layer
itself stays what it is: a picture takes exactly as long as without a network. The base's own
tensors are never written to, and come back when the networks are detached. A layer whose strength
is 0 has its own parameter, to the bit. Sums are computed in fp32 and kept in the base's dtype, so
a network costs the memory of the weights that it changes once more.

To change strengths is to compute the sums of those layers whose strength changes; to enter or to
leave a network's steps (`Window`) only exchanges parameters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import ConfigError
from .forms import Update
from .live import LiveNetwork
from .lora import LoRALayer
from .strength import Strength
from .targets import Parts, find_layers

_NAMES = ("weight", "bias")
KEPT_NUMBERS = 1 << 26
"""Deltas of up to so many numbers in all are kept between changes of strengths.

Of a small model a picture takes hardly longer than they do; of a large one they take a few
thousandths of it, and keeping them would double the memory.
"""


class AppliedParameter(nn.Parameter):
    """A layer's parameter with networks in it: marks the layer as adapted, and says by what.

    own: the base's, which it stands in for.
    """

    stack: "AppliedStack | None" = None
    own: Tensor | None = None


class AppliedNetwork(LiveNetwork):
    """A network of any algorithm, from a file: updates by path, used and not trained."""

    def __init__(self, updates: Mapping[str, Update]) -> None:
        super().__init__()
        if not updates:
            raise ConfigError("the network has no adapter")
        self.updates = dict(updates)
        self._stack: AppliedStack | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The adapted layers."""
        return tuple(self.updates)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the network consists of, by name, without a copy."""
        return {
            f"{path}.{suffix}": tensor
            for path, update in self.updates.items()
            for suffix, tensor in update.tensors.items()
        }

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The titles of the forms that its layers have."""
        return tuple(sorted({update.form.title for update in self.updates.values()}))

    def attach(self, parts: Parts) -> None:
        """Let a base model's layers be adapted until `detach`; several at once: AppliedStack."""
        AppliedStack([self]).attach(parts)

    def detach(self) -> None:
        """Leave the base model as it was; without effect where nothing is attached."""
        if self._stack is not None:
            self._stack.detach()

    def is_attached_to(self, parts: Parts) -> bool:
        """Whether the network is attached to this base model."""
        return self._stack is not None and self._stack.is_attached_to(parts)

    def _take_off(self) -> Callable[[Parts], None]:
        stack = self._stack
        if stack is None:
            return super()._take_off()
        stack.detach()
        return stack.attach

    def enter(self, stack: "AppliedStack | None") -> None:
        """Be told by a stack that it holds this network, or holds it no more."""
        if stack is not None and self._stack is not None:
            raise ConfigError("this network is attached already; detach it first")
        self._stack = stack
        self._step = 0

    def _show(self, former: Strength) -> None:
        if self._stack is None:
            return
        if former is self._strength:
            self._stack.step_changed(self)
        else:
            same_steps = former.window == self._strength.window
            changed = [p for p in self.updates if former.of(p) != self._strength.of(p)]
            self._stack.renew(changed if same_steps else self.updates)


class _Place:
    """One tensor of one layer: the base's own parameter, and the one that holds the sum."""

    def __init__(self, module: nn.Module, name: str, stack: "AppliedStack") -> None:
        self.module, self.name, self.stack = module, name, stack
        self.own: nn.Parameter = module.get_parameter(name)
        self.sum: AppliedParameter | None = None
        self.is_summed = False
        self.kept: dict[int, Tensor | None] = {}

    def show(self, *, adapted: bool) -> None:
        """Give the layer the sum or its own parameter."""
        chosen = self.sum if adapted and self.is_summed else self.own
        if getattr(self.module, self.name) is not chosen:
            setattr(self.module, self.name, chosen)

    def renew(self, deltas: Iterable[tuple[float, Tensor]]) -> None:
        """Compute the sum anew, where there is any delta; to be called under no_grad."""
        given = list(deltas)
        self.is_summed = bool(given)
        if not given:
            return
        if self.sum is None:
            # 8 bits would round updates away; such weights are converted at each use in any case
            dtype = self.own.dtype if self.own.element_size() > 1 else torch.bfloat16
            held = torch.empty_like(self.own, dtype=dtype)  # in the layout that computes quickest
            self.sum = AppliedParameter(held, requires_grad=False)
            self.sum.stack, self.sum.own = self.stack, self.own
        (strength, delta), *others = given
        own, is_exact = self.own.detach(), self.sum.dtype == torch.float32
        total = self.sum if is_exact and own.dtype == torch.float32 else None
        total = torch.add(own.float(), delta, alpha=strength, out=total)
        for strength, delta in others:
            total.add_(delta, alpha=strength)
        if total is not self.sum:
            self.sum.copy_(total)


class AppliedStack:
    """Several networks at once on one base model, each with its own strengths, which add up."""

    def __init__(self, networks: Sequence[AppliedNetwork]) -> None:
        self.networks = tuple(networks)
        self._places: dict[str, list[_Place]] = {}
        self._keeps = False

    def attach(self, parts: Parts) -> None:
        """Let a base model's layers be adapted until `detach`.

        ConfigError where a layer is missing, does not fit or is adapted already, or the stack is
        attached; all is then as it was.
        """
        if self._places:
            raise ConfigError("these networks are attached already; detach them first")
        layers = find_layers(parts)
        paths = {path: None for network in self.networks for path in network.updates}
        if unknown := [path for path in paths if path not in layers]:
            raise ConfigError(
                f"{len(unknown)} adapted layers are not in this base model "
                f"({', '.join(unknown[:3])}): the network was made for another model family. Use "
                "the one it was made for."
            )
        entered: list[AppliedNetwork] = []
        try:
            for network in self.networks:
                network.enter(self)
                entered.append(network)
            self._places = {path: _places(path, layers[path], self) for path in paths}
            numbers = (place.own.numel() for places in self._places.values() for place in places)
            self._keeps = sum(numbers) * len(self.networks) <= KEPT_NUMBERS
            self.renew(paths)
        except BaseException:
            self._give_back(entered)
            raise

    def detach(self) -> None:
        """Leave the base model as it was; without effect where nothing is attached."""
        if self._places:
            self._give_back(self.networks)

    def _give_back(self, networks: Iterable[AppliedNetwork]) -> None:
        for places in self._places.values():
            for place in places:
                place.show(adapted=False)
        self._places = {}
        for network in networks:
            network.enter(None)

    @contextmanager
    def attached(self, parts: Parts) -> Iterator[None]:
        """Attach for the length of a with block."""
        self.attach(parts)
        try:
            yield
        finally:
            self.detach()

    def is_attached_to(self, parts: Parts) -> bool:
        """Whether these networks are attached to this base model."""
        modules = {id(module) for part in parts.values() for module in part.modules()}
        return any(id(p.module) in modules for places in self._places.values() for p in places)

    def step_changed(self, network: AppliedNetwork) -> None:
        """Take note that a network entered its steps or left them."""
        if len(self.networks) > 1:
            self.renew(network.updates)
            return
        for path in network.updates:
            for place in self._places[path]:
                place.show(adapted=network.acting(path) != 0)

    def renew(self, paths: Iterable[str]) -> None:
        """Compute the weights of these layers for the strengths as they are."""
        # hosts run under inference mode, whose tensors could not be written to afterwards
        with torch.inference_mode(False), torch.no_grad():
            for path in paths:
                acts = [n for n in self.networks if path in n.updates and n.acting(path) != 0]
                for place in self._places[path]:
                    place.renew(self._deltas(path, place))
                    place.show(adapted=bool(acts))

    def _deltas(self, path: str, place: _Place) -> Iterator[tuple[float, Tensor]]:
        """The strengths and deltas of one tensor; of a single network outside its steps too."""
        alone = len(self.networks) == 1
        for network in self.networks:
            if path not in network.updates:
                continue
            strength = network.strength.of(path) if alone else network.acting(path)
            delta = self._delta(path, network, place) if strength else None
            if delta is not None:
                yield strength, delta

    def _delta(self, path: str, network: AppliedNetwork, place: _Place) -> Tensor | None:
        if id(network) in place.kept:
            return place.kept[id(network)]
        delta = _delta(path, network.updates[path], place)
        if self._keeps:
            place.kept[id(network)] = delta
        return delta


def networks_on(parts: Parts) -> tuple[LiveNetwork, ...]:
    """Return the networks that are attached to a base model."""
    modules = [module for part in parts.values() for module in part.modules()]
    layers = (module for module in modules if isinstance(module, LoRALayer))
    found = {layer.owner: None for layer in layers if layer.owner is not None}
    parameters = (p for module in modules for p in module.parameters(recurse=False))
    stacks = {p.stack: None for p in parameters if isinstance(p, AppliedParameter)}
    others = (network for stack in stacks if stack is not None for network in stack.networks)
    return tuple(found | dict.fromkeys(others))


class ActingLayer(NamedTuple):
    """A layer in which attached networks act.

    weight: the base's own. attention: what the layer is a projection of, in a text encoder.
    """

    layer: nn.Module
    weight: Tensor
    attention: nn.Module | None


def acting_layers(parts: Parts) -> Iterator[ActingLayer]:
    """Find the layers in which the networks act that are attached to a base model."""
    for part in parts.values():
        for parent in part.modules():
            if isinstance(parent, LoRALayer):
                continue
            attention = parent if hasattr(parent, "q_proj") else None
            for layer in parent.children():
                if isinstance(layer, LoRALayer):
                    yield ActingLayer(layer, layer.weight, attention)
                elif any(isinstance(p, AppliedParameter) for p in layer.parameters(recurse=False)):
                    shown = layer.get_parameter("weight")
                    own = shown.own if isinstance(shown, AppliedParameter) else shown
                    yield ActingLayer(layer, shown if own is None else own, attention)


def compute_as_given(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what an acting layer makes of x in x's dtype, whatever its weight is stored in.

    For those who compute in several, as hosts do.
    """
    if isinstance(layer, LoRALayer):
        if layer.scale * layer.strength != 0:
            return layer(x)
        layer = layer.base
    own = {name: p.to(x.dtype) for name, p in layer.named_parameters(recurse=False)}
    # not by their own `forward`: those that cast their weight have a dtype of their own
    if isinstance(layer, nn.Linear):
        return F.linear(x, own["weight"], own.get("bias"))
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, own["weight"], own.get("bias"))  # noqa: SLF001
    return functional_call(layer, own, (x,))


def _places(path: str, module: nn.Module, stack: AppliedStack) -> list[_Place]:
    present = [name for name in _NAMES if isinstance(getattr(module, name, None), nn.Parameter)]
    if "weight" not in present:
        raise ConfigError(
            f"{path} has no weight of its own ({type(module).__name__}): a network can't be added "
            "to it. Load the base model without quantisation."
        )
    for name in present:
        own = module.get_parameter(name)
        if isinstance(own, AppliedParameter):
            raise ConfigError(
                f"{path} carries a network already: detach it first, or attach both as one stack"
            )
        if not own.is_floating_point():
            raise ConfigError(
                f"{path} is stored as {own.dtype}: a network can't be added to quantised weights. "
                "Load the base model without quantisation."
            )
    return [_Place(module, name, stack) for name in present]


def _delta(path: str, update: Update, place: _Place) -> Tensor | None:
    own = place.own.detach()
    try:
        if place.name == "weight":
            return update.delta(own)
        delta = update.bias_delta()
        return None if delta is None else delta.to(own.device).reshape(own.shape)
    except (ConfigError, RuntimeError) as error:
        raise ConfigError(f"{path}: {error}") from error
