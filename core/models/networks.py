"""Networks from files, ready for a base model, whatever tool and algorithm they come from."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..adapters.applied import AppliedNetwork
from ..adapters.forms import Update
from ..adapters.live import LiveNetwork
from ..adapters.lora import AdapterWeights
from ..adapters.network import Network
from ..adapters.targets import find_layers, find_targets
from ..errors import ConfigError, FileError
from ..files.adapter_file import AdapterFile, read_adapters
from ..files.names import paths_by_key
from ..log import logger
from .base_model import BaseModel
from .families import FAMILIES


def open_network(base: BaseModel, path: Path, rank: int = 0) -> LiveNetwork:
    """A network from a file, ready to be attached to `base`. Raises FileError, ConfigError.

    rank: how many components of a DyLoRA to use, 0 for all. Plain LoRA is computed beside the
    base's weights, which keeps the smallest of updates in half precision; every other algorithm is
    added to them.
    """
    file = read_adapters(path)
    updates = {name: own.cut(rank) for name, own in fitting_updates(file, base).items()}
    targets = find_targets(base.parts)
    if all(update.is_plain for update in updates.values()) and set(updates) <= set(targets):
        return _trainable(targets, updates)
    return AppliedNetwork(updates)


def open_applied(base: BaseModel, path: Path, rank: int = 0) -> AppliedNetwork:
    """A network from a file for an `AppliedStack` of several. rank: as `open_network` has it."""
    updates = fitting_updates(read_adapters(path), base)
    return AppliedNetwork({name: update.cut(rank) for name, update in updates.items()})


def fitting_updates(file: AdapterFile, base: BaseModel) -> dict[str, Update]:
    """A file's layers by the paths of a base model. Raises FileError where they do not fit."""
    family, title = base.family.key, base.family.title
    if file.family is not None and file.family != family:
        raise FileError(
            f"{file.path} is made for {FAMILIES[file.family].title}, and {base.name} is {title}; "
            "give a checkpoint of its family"
        )
    warn_unknown(file)
    layers = find_layers(base.parts)
    updates = updates_by_path(file, layers, family)
    for path, update in updates.items():
        _require_fit(file.path, path, update, layers[path])
    return updates


def updates_by_path(
    file: AdapterFile, layers: Mapping[str, nn.Module], family: str
) -> dict[str, Update]:
    """A file's layers by path. Raises FileError where a layer is missing or there twice."""
    paths = paths_by_key(layers, family)
    unknown = sorted(set(file.layers) - set(paths))
    if unknown:
        raise FileError(
            f"{file.path} does not fit the base model: {len(unknown)} of its {len(file.layers)} "
            f"modules are not in it ({', '.join(unknown[:3])}); give the checkpoint that it was "
            "trained on"
        )
    updates = {paths[key]: Update(tensors) for key, tensors in file.layers.items()}
    if len(updates) < len(file.layers):
        raise FileError(
            f"{file.path} adapts {len(file.layers) - len(updates)} layers twice, by two spellings "
            "of their names: it is no whole network; make it anew with the tool that wrote it"
        )
    return updates


def warn_unknown(file: AdapterFile) -> None:
    """Say which tensors of a file are left apart."""
    if file.unknown:
        logger.warning("%s", unknown_text(file))


def unknown_text(file: AdapterFile) -> str:
    """Which tensors of a file are no adapter's, in words."""
    some = ", ".join(file.unknown[:5]) + (", ..." if len(file.unknown) > 5 else "")
    return (
        f"{len(file.unknown)} tensors of {file.path.name} are of no known kind and are left "
        f"apart: {some}"
    )


def _require_fit(file: Path, path: str, update: Update, layer: nn.Module) -> None:
    """Try an update's arithmetic on shapes alone, which takes no time and no memory."""
    weight = layer.get_parameter("weight")
    try:
        shapes = Update({name: tensor.to("meta") for name, tensor in update.tensors.items()})
        shapes.delta(weight.detach().to("meta"))
        bias = shapes.bias_delta()
        if bias is not None and not _has_bias(layer, bias):
            raise ConfigError("it changes a bias that the layer does not have")
    except ConfigError as error:
        raise FileError(f"{file} does not fit: {path}: {error}") from error


def _has_bias(layer: nn.Module, delta: Tensor) -> bool:
    bias = getattr(layer, "bias", None)
    return bias is not None and bias.numel() == delta.numel()


def _trainable(targets: Mapping[str, nn.Module], updates: Mapping[str, Update]) -> Network:
    weights = {}
    for path, update in updates.items():
        down, up = update.tensors["lora_down.weight"], update.tensors["lora_up.weight"]
        shape = targets[path].get_parameter("weight").shape
        if (
            len(shape) != down.dim()
        ):  # made for a linear layer, and it is a 1x1 convolution, or the reverse
            ones = [1] * (len(shape) - 2)
            down, up = (t.reshape(*t.shape[:2], *ones) for t in (down, up))
        alpha = float(update.tensors.get("alpha", Tensor([len(down)])))
        weights[path] = AdapterWeights(down.float(), up.float(), alpha)
    return Network.from_weights(targets, weights)
