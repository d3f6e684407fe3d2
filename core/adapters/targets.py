"""Which layers of a base model carry an adapter, under names that do not depend on a library."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from ..errors import ConfigError
from .lora import LoRALayer, weight_of

UNET = "unet"
_KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)

_TRANSFORMER = r"(?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+"
_INSIDE = r"transformer_blocks\.\d+\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2))"
_RESIDUAL = (
    r"(?:(?:down|up)_blocks\.\d+|mid_block)\."
    r"(?:resnets\.\d+\.(?:conv[12]|time_emb_proj|conv_shortcut)|(?:down|up)samplers\.0\.conv)"
)
_RESIDUAL_TARGET = re.compile(rf"{UNET}\.{_RESIDUAL}")
_UNET_TARGET = re.compile(rf"{_TRANSFORMER}\.(?:proj_in|proj_out|{_INSIDE})|{_RESIDUAL}")
_TEXT_TARGET = re.compile(
    r"(?:text_model\.)?"
    r"(encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]_proj|out_proj)|mlp\.fc[12]))"
)


# A base model's trainable networks by name: "unet", "text_encoder", "text_encoder_2".
Parts = Mapping[str, nn.Module]


class Slot(NamedTuple):
    """Where a layer sits: an attribute of its parent module."""

    parent: nn.Module
    name: str
    layer: nn.Module


def find_targets(parts: Parts) -> dict[str, nn.Module]:
    """Return the layers that can be adapted, keyed "<part>.<path>".

    The U-Net ("unet", diffusers' names): attention, feed-forward and the projections of every
    transformer (192 layers for SD1), which LoRA adapts, and all layers between them (86), which
    LoCon adapts as well (`is_between_transformers`). Text encoders ("text_encoder",
    "text_encoder_2", transformers' CLIP models): attention and MLP (6 a layer); the path is
    `text_model.encoder...` also where the library's module tree lacks `text_model`. ConfigError
    where a layer cannot be adapted, or is adapted already.
    """
    return {path: slot.layer for path, slot in find_slots(parts).items()}


def is_between_transformers(path: str) -> bool:
    """Whether a layer lies in a residual block or a sampler: one of those that LoCon adds."""
    return _RESIDUAL_TARGET.fullmatch(path) is not None


def find_slots(parts: Parts) -> dict[str, Slot]:
    """Return what find_targets finds, with the place where each layer sits."""
    slots = {}
    for part, root in parts.items():
        paths = _unet_paths(root) if part == UNET else _text_paths(root)
        for path, actual in paths:
            parent, _, name = actual.rpartition(".")
            slots[f"{part}.{path}"] = Slot(
                root.get_submodule(parent), name, root.get_submodule(actual)
            )
    for path, slot in slots.items():
        _check(path, slot.layer)
    return slots


def find_layers(parts: Parts) -> dict[str, nn.Module]:
    """Return every layer that some algorithm changes, keyed as `find_targets` does.

    Linear layers, convolutions and norms. ConfigError where a layer carries a trained network.
    """
    layers = {}
    for part, root in parts.items():
        for name, module in root.named_modules():
            if isinstance(module, LoRALayer):
                _check(f"{part}.{name}", module)
            if isinstance(module, _KINDS):
                path = name if part == UNET else f"text_model.{name.removeprefix('text_model.')}"
                layers[f"{part}.{path}"] = module
    return layers


def _unet_paths(unet: nn.Module) -> Iterator[tuple[str, str]]:
    for name, _ in unet.named_modules():
        if _UNET_TARGET.fullmatch(name):
            yield name, name


def _text_paths(text_encoder: nn.Module) -> Iterator[tuple[str, str]]:
    for name, _ in text_encoder.named_modules():
        match = _TEXT_TARGET.fullmatch(name)
        if match:
            yield f"text_model.{match[1]}", name


def _check(path: str, layer: nn.Module) -> None:
    if isinstance(layer, LoRALayer):
        raise ConfigError(
            f"{path} carries an adapter already: a network is still attached to this base model. "
            "Detach it first."
        )
    try:
        weight_of(layer)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
