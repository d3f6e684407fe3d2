"""The network: all adapters of one training, attached to a base model and taken off again."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from ..errors import ConfigError
from ..randomness import generator
from .block_weights import BlockWeights, chosen_blocks
from .blocks import block_of
from .factors import FlatFactors, LayerFactors
from .live import LiveNetwork, blocks_of
from .lora import AdapterWeights, LoRALayer, LoRAWeights, check_fit, init_lora, weight_of, wrap
from .merged import Bank, MergedBank, can_merge
from .strength import Strength
from .targets import UNET, Parts, Slot, find_slots, is_between_transformers


@dataclass(frozen=True, slots=True)
class _Adapter:
    """One layer's factors and alpha."""

    factors: LayerFactors
    alpha: float

    def weights(self) -> AdapterWeights:
        return AdapterWeights(self.factors.down.detach(), self.factors.up.detach(), self.alpha)


class Network(LiveNetwork):
    """Adapters by path ("unet.<path>", "text_encoder.<path>"), fp32 factors that are trained.

    The factors live here; a base model only borrows them while the network is attached, and is
    afterwards, also after an error, exactly as it was. Strengths are numbers on the live layers:
    setting them moves no tensor. Training is done at strength 1, the default.
    """

    def __init__(self, adapters: Mapping[str, AdapterWeights]):
        super().__init__()
        if not adapters:
            raise ConfigError("the network has no adapter: the base model has no layer for it")
        self._factors = _lay_flat({path: a.lora for path, a in adapters.items()})
        own = {path: pair for flat in self._factors.values() for path, pair in flat.layers.items()}
        self._adapters = {path: _Adapter(own[path], a.alpha) for path, a in adapters.items()}
        self._banks: dict[str, dict[tuple[str, ...], MergedBank]] = {}
        self._gradients: dict[str, list[Bank]] = {}
        self._layers: dict[str, LoRALayer] = {}
        self._borrowed: list[Slot] = []
        self._drawn: list[_Drawn] = []

    @classmethod
    def create(
        cls, targets: Mapping[str, nn.Module], config: NetworkConfig, seed: int
    ) -> "Network":
        """Make a fresh network, which changes nothing yet, for those targets that config wants.

        What a layer starts with depends on the seed and its path alone. ConfigError where no
        target is left.
        """
        adapters = {}
        for path, base in targets.items():
            size = adapter_size(path, base, config)
            if size is not None:
                down, up = init_lora(base, size.rank, generator(seed, f"adapter {path}"))
                device = weight_of(base).device
                adapters[path] = AdapterWeights(down.to(device), up.to(device), size.alpha)
        if config.blocks and not adapters:
            raise ConfigError(
                f"network.blocks is {config.blocks!r}: none of the layers to be trained lies in "
                "these blocks; name others, or leave it empty"
            )
        return cls(adapters)

    @classmethod
    def from_weights(
        cls, targets: Mapping[str, nn.Module], weights: Mapping[str, AdapterWeights]
    ) -> "Network":
        """Make a network from the weights of a file. ConfigError where they do not fit targets."""
        adapters = {}
        _require_known(weights, targets)
        for path, adapter in weights.items():
            _check_fit(path, targets[path], adapter)
            device = weight_of(targets[path]).device
            down = adapter.down_RI.to(device, torch.float32, copy=True)
            up = adapter.up_OR.to(device, torch.float32, copy=True)
            adapters[path] = AdapterWeights(down, up, adapter.alpha)
        return cls(adapters)

    @property
    def paths(self) -> tuple[str, ...]:
        """The adapted layers."""
        return tuple(self._adapters)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return every factor as "<path>.down" and "<path>.up", in a fixed order."""
        named = {}
        for path, adapter in self._adapters.items():
            named[f"{path}.down"] = adapter.factors.down
            named[f"{path}.up"] = adapter.factors.up
        return named

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the network consists of, by name, without a copy."""
        return dict(self.named_parameters())

    def flat_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Return the factors of each part as an optimizer sees them: one flat tensor."""
        return {part: [flat.values] for part, flat in self._factors.items()}

    def cut(self, part: str, flat: Tensor) -> dict[str, Tensor]:
        """Return the views of one number for each of a part's factors, by factor name.

        flat: what an optimizer holds beside that part's flat tensor, and of its size.
        """
        return self._factors[part].by_name(flat)

    def count_parameters(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self.named_parameters().values())

    def load_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite every factor, by the names of named_parameters; all must be there and fit."""
        own = self.named_parameters()
        _require_known(tensors, own)
        _require_known(own, tensors)
        for name, parameter in own.items():
            if tensors[name].shape != parameter.shape:
                raise ConfigError(
                    f"{name} has shape {tuple(tensors[name].shape)}; this network's has "
                    f"{tuple(parameter.shape)}. Rank and base model must be the same."
                )
        with torch.inference_mode(False), torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
        for merged in self._merged():
            merged.renew()

    def attach(self, parts: Parts) -> None:
        """Put the adapters of the given parts into a base model; nothing happens on an error.

        ConfigError where this network is attached already, where another one is, or where an
        adapter does not fit.
        """
        if self._layers:
            raise ConfigError("this network is attached already; detach it first")
        slots = find_slots(parts)
        own = {path: a for path, a in self._adapters.items() if _part(path) in parts}
        _require_known(own, slots)
        layers = {}
        for path, adapter in own.items():
            base, weights = slots[path].layer, adapter.weights()
            _check_fit(path, base, weights)
            factors = LoRAWeights(*adapter.factors)
            layers[path] = wrap(base, factors, weights.scale, self.acting(path))
            layers[path].owner = self
        self._layers = layers
        try:
            self._merge_small_layers()
            for path, layer in layers.items():
                self._borrowed.append(slots[path])
                setattr(slots[path].parent, slots[path].name, layer)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Put the base model's own layers back; without effect where nothing is attached."""
        while self._borrowed:
            slot = self._borrowed.pop()
            setattr(slot.parent, slot.name, slot.layer)
        self._layers, self._banks, self._step = {}, {}, 0

    def is_attached_to(self, parts: Parts) -> bool:
        """Whether the network is attached to this base model."""
        own = {id(layer) for layer in self._layers.values()}
        return any(id(module) in own for part in parts.values() for module in part.modules())

    def _merge_small_layers(self) -> None:
        """Give small layers of one shape a common place for their updated weights."""
        for part, flat in self._factors.items():
            for bank in flat.banks:
                layers = [self._layers[path] for path in bank.paths if path in self._layers]
                bases = [layer.base for layer in layers if can_merge(layer.base)]
                if len(bases) < len(bank.paths):
                    continue
                merged = MergedBank(bank, bases, lambda flat=flat: flat.version)
                self._banks.setdefault(part, {})[bank.paths] = merged
                for index, layer in enumerate(layers):
                    layer.place = merged, index
        self._show(self._strength)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let small fp32 layers be the base's own with their updated weight: no call beside them.

        For layers of a few thousand numbers the call is what costs.
        """
        slots = {id(slot.layer): slot for slot in self._borrowed}
        for layer in self._layers.values():
            slot = slots.get(id(layer.base))
            if slot is not None and layer.place is not None and _is_drawable(slot.layer):
                self._drawn.append(_Drawn(slot, layer, *layer.place))
        try:
            self._show_drawn()
            for drawn in self._drawn:
                setattr(drawn.slot.parent, drawn.slot.name, drawn.slot.layer)
            yield
        finally:
            for drawn in self._drawn:
                drawn.show(adapted=False)
                setattr(drawn.slot.parent, drawn.slot.name, drawn.layer)
            self._drawn = []

    def _show_drawn(self) -> None:
        with torch.no_grad():
            for bank in dict.fromkeys(drawn.bank for drawn in self._drawn):
                bank.refresh()
        for drawn in self._drawn:
            drawn.show(adapted=drawn.layer.scale * drawn.layer.strength != 0)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold gradients for the length of a with block, in which `backward` may be called.

        To be entered while the network is attached. Inside of it strengths stay as they are,
        gradients come from `backward` and go by `after_step`.
        """
        try:
            self._gradients = {part: flat.hold_gradients() for part, flat in self._factors.items()}
            for merged in self._merged():
                merged.collects = True
            yield
        finally:
            self._gradients = {}
            for merged in self._merged():
                merged.collects = False
            for flat in self._factors.values():
                flat.drop_gradients()

    def backward(self, roots: Tensor | list[Tensor], gradients: list[Tensor] | None = None) -> None:
        """Add the gradients of a loss, or of tensors with theirs, to those that the factors hold.

        RuntimeError outside of training(), and where the factors or their gradients were moved.
        """
        if not self._gradients:
            raise RuntimeError("a network's backward pass needs its training() block")
        for flat in self._factors.values():
            flat.require_in_place()
        torch.autograd.backward(roots, gradients)
        for part, banks in self._gradients.items():
            for bank in banks:
                merged = self._banks.get(part, {}).get(bank.paths)
                if merged is not None:
                    merged.settle(bank)

    def after_step(self) -> None:
        """Take note that an optimizer has moved the factors: gradients begin at zero again."""
        for flat in self._factors.values():
            if flat.values.grad is not None:
                flat.values.grad.zero_()
        for merged in self._merged():
            merged.renew()

    def _merged(self) -> Iterator[MergedBank]:
        for banks in self._banks.values():
            yield from banks.values()

    def _show(self, former: Strength) -> None:
        del former
        for path, layer in self._layers.items():
            layer.strength = self.acting(path)
        for banks in self._banks.values():
            for paths, merged in banks.items():
                layers = (self._layers[path] for path in paths)
                merged.set_multipliers([layer.scale * layer.strength for layer in layers])
        self._show_drawn()

    def weights(self) -> dict[str, AdapterWeights]:
        """Return the factors as they are now, without a copy and without gradients."""
        return {path: adapter.weights() for path, adapter in self._adapters.items()}

    def bake(
        self,
        block_weights: BlockWeights | None = None,
        unet: float = 1.0,
        text_encoder: float = 1.0,
    ) -> dict[str, AdapterWeights]:
        """Return weights that do at strength 1 what these strengths do, in fp32.

        The strength goes into `up`, alpha stays; adapters at 0 are dropped. ConfigError where
        none is left.
        """
        return fold(
            self.weights(),
            Strength(unet=unet, text_encoder=text_encoder, block_weights=block_weights),
        )


class _Drawn:
    """A layer that stands in its own place with its updated weight while pictures are drawn."""

    def __init__(self, slot: Slot, layer: LoRALayer, bank: MergedBank, index: int) -> None:
        self.slot, self.layer, self.bank = slot, layer, bank
        self._own = slot.layer.get_parameter("weight")
        updated = bank.plain(index).view(self._own.shape)
        self._updated = nn.Parameter(updated, requires_grad=False)

    def show(self, *, adapted: bool) -> None:
        """Give the base's layer the updated weight, or its own."""
        self.slot.layer.register_parameter("weight", self._updated if adapted else self._own)


def _is_drawable(base: nn.Module) -> bool:
    """Whether a layer computes in fp32 with the weight that it has."""
    return type(base) in (nn.Linear, nn.Conv2d) and base.weight.dtype == torch.float32


class Size(NamedTuple):
    """Rank and alpha of one layer's adapter."""

    rank: int
    alpha: float


def adapter_size(path: str, base: nn.Module, config: NetworkConfig) -> Size | None:
    """Return what a fresh network has on a target; None where config leaves it alone.

    Of the layers that LoCon adds, the 3x3 convolutions have their own rank; the others have that of
    the transformers. Source: sd-scripts `networks/lora.py`.
    """
    if not (config.unet if _part(path) == UNET else config.text_encoder):
        return None
    if config.blocks and block_of(path) not in _trained_blocks(config.blocks):
        return None
    if is_between_transformers(path):
        if not config.conv_rank:
            return None
        if isinstance(base, nn.Conv2d) and base.kernel_size != (1, 1):
            return Size(config.conv_rank, config.conv_alpha or float(config.conv_rank))
    return Size(config.rank, config.alpha)


def _trained_blocks(text: str) -> frozenset[str]:
    try:
        return chosen_blocks(text) or frozenset()
    except ConfigError as error:
        reason = str(error).removeprefix("block weights: ")
        raise ConfigError(f"network.blocks is {text!r}: {reason}") from error


def fold(weights: Mapping[str, AdapterWeights], strength: Strength) -> dict[str, AdapterWeights]:
    """Fold strengths into weights (by path or kohya key), in fp32; see `Network.bake`."""
    baked = {
        path: AdapterWeights(a.down_RI.clone(), a.up_OR * strength.of(path), a.alpha)
        for path, a in weights.items()
        if strength.of(path) != 0
    }
    if not baked:
        chosen = strength.block_weights
        found = blocks_of(weights)
        raise ConfigError(
            f"nothing is left to bake: {chosen.label if chosen else 'strength 0'} turns off every "
            f"block that this network has ({', '.join(found)}). Choose weights that leave at least "
            "one of them on."
        )
    return baked


def _lay_flat(factors: Mapping[str, LoRAWeights]) -> dict[str, FlatFactors]:
    """Each part's factors in one piece; those of one part lie on one device."""
    parts: dict[str, dict[str, LoRAWeights]] = {}
    for path, lora in factors.items():
        parts.setdefault(_part(path), {})[path] = lora
    return {part: FlatFactors(own) for part, own in parts.items()}


def _part(path: str) -> str:
    return path.partition(".")[0]


def _check_fit(path: str, base: nn.Module, adapter: AdapterWeights) -> None:
    try:
        check_fit(base, adapter.lora)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _require_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError that counts and names what is not known."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise ConfigError(
            f"{len(unknown)} adapted layers are not in this base model ({shown}): the network was "
            "made for another model family or with other settings. Use the one it was made for."
        )
