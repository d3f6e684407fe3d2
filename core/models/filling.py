"""Matches the networks' tensors with a checkpoint's, and gives the networks their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import keymaps
from .checkpoint import Checkpoint
from .families import SD2, Family
from .layouts import Layout
from .parts import TITLES, PartTensors, Stored, missing_name

_NAMED = 5  # tensors that an error names before it only counts

_TEXT = r"(cond_stage_model|conditioner\.embedders\.[01])\."
# tensors that files carry along and that no network has
_BENIGN = re.compile(
    r"model_ema\.|betas$|(sqrt_|log_)?(one_minus_)?(recip_|recipm1_)?alphas_cumprod|alphas_cumprod_prev$|"
    r"sqrt_|log_one_minus|posterior_|logvar$|lvlb_weights$|scale_factor$|denoiser\.|"
    r"v_pred$|ztsnr$|embedding_manager\.|first_stage_model\.(loss\.|model_ema\.)|safety_checker\.|"
    rf"{_TEXT}(logit_scale|text_projection|transformer\.(visual_|text_)projection\.|"
    r"transformer\.vision_model\.|transformer\.logit_scale$|"
    r"transformer\.(text_model\.)?embeddings\.position_ids$|"
    r"model\.(logit_scale|attn_mask|text_projection|visual\.)|model\.text_projection\.)"
)
_SCALES = re.compile(
    r"(\.scale_(weight|input)|(^|\.)scaled_fp8|\.absmax|\.quant_map|\.quant_state)\b"
)


class Placement(NamedTuple):
    """Where a network's weights go: device and floating-point type."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One network of the checkpoint, still on the meta device.

    tensors: for each of the network's tensors (its own spelling) where the checkpoint has it.
    as_linear: whether the checkpoint may hold a 1x1 convolution where this is a linear's weight.
    """

    title: str
    network: nn.Module
    tensors: Mapping[str, Stored]
    as_linear: Callable[[str], bool] = field(default=lambda _: False)


def map_parts(
    checkpoint: Checkpoint,
    layout: Layout,
    stored: Mapping[str, PartTensors],
    networks: Mapping[str, nn.Module],
) -> dict[str, Part]:
    """Match every part's tensors with the checkpoint's.

    Raises CheckpointError when a tensor is missing, of another shape, or left over.
    """
    _refuse_quantised(checkpoint)
    problems: list[str] = []
    parts, used = {}, set()
    for name, network in networks.items():
        found, title = stored[name], TITLES[name]
        names = _names(name, layout, network)
        missing = [
            checkpoint.spelled(missing_name(checkpoint.shapes, layout.family, name, canonical))
            for canonical in names
            if canonical not in found
        ]
        problems += _listed(f"missing from its {title}", sorted(set(missing), key=missing.index))
        tensors = {own: found[canonical] for canonical, own in names.items() if canonical in found}
        used.update(place.name for place in tensors.values())
        as_linear = keymaps.is_vae_projection if name == "vae" else _never
        part = Part(title=title, network=network, tensors=tensors, as_linear=as_linear)
        problems += _listed(f"of a wrong shape in its {title}", _wrong_shapes(checkpoint, part))
        parts[name] = part
    used.update(_unread(layout.family, stored, layout))
    left = [n for n in checkpoint.shapes if n not in used and not _BENIGN.match(n)]
    problems += _listed("unknown", [checkpoint.spelled(name) for name in left])
    if problems:
        raise CheckpointError(f"{checkpoint.path} does not fit: {'; '.join(problems)}")
    return parts


def fill(part: Part, checkpoint: Checkpoint, placement: Placement) -> None:
    """Give the network its weights, straight to device and dtype, and freeze it in eval mode.

    Raises CheckpointError for weights that are not finite numbers, as stored or in this dtype.
    """
    state = {}
    expected = part.network.state_dict()
    for own, place in part.tensors.items():
        weight = place.read(checkpoint).to(placement.device, placement.dtype)
        weight = weight.contiguous().view(expected[own].shape)
        if not _is_finite(weight.detach()):
            name = checkpoint.spelled(place.name)
            raise CheckpointError(
                f"{checkpoint.path}: weight {name!r} of its {part.title} is not finite as "
                f"{placement.dtype}; the model is damaged, or needs memory.precision fp32 or bf16"
            )
        state[own] = weight
    give_weights(part.network, state, placement.device)


def give_weights(network: nn.Module, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Make the tensors of `state` a network's own, and freeze it in eval mode."""
    whole = {**state, **_computed(network.state_dict(), device)}
    network.load_state_dict(whole, strict=True, assign=True)
    _recreate_buffers(network, device)
    network.requires_grad_(False).eval()


def _names(part: str, layout: Layout, network: nn.Module) -> dict[str, str]:
    """Canonical name -> the network's own, for every tensor that a checkpoint must hold."""
    if part == "unet":
        return keymaps.unet_map(layout.unet)
    if part == "vae":
        return keymaps.vae_map(layout.vae)
    # a spelling with or without `text_model.`, by the version of transformers
    own = {keymaps.canonical_text_name(name): name for name in network.state_dict()}
    return {name: own.get(name, name) for name in keymaps.text_names(layout.texts[part])}


def _unread(family: Family, stored: Mapping[str, PartTensors], layout: Layout) -> set[str]:
    """What is there and belongs there, and is not read: the last layer of SD2's text encoder."""
    if family is not SD2:
        return set()
    last = f"{keymaps.TEXT_MODEL}encoder.layers.{layout.texts['text_encoder'].layers}."
    return {
        place.name
        for canonical, place in stored["text_encoder"].items()
        if canonical.startswith((last, keymaps.TEXT_PROJECTION))
    }


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    scales = [name for name in checkpoint.shapes if _SCALES.search(name)]
    if scales:
        raise CheckpointError(
            f"{checkpoint.path} holds quantised weights with scales beside them ({scales[0]}), "
            "which can't be trained on; give the same model in fp16, bf16, fp32 or plain fp8"
        )


def _never(_: str) -> bool:
    return False


def _is_finite(weight: Tensor) -> bool:
    if weight.dtype == torch.float16 and weight.device.type == "cpu":
        return bool(torch.isfinite(weight).all())  # torch 2.1 lacks aminmax for these
    low, high = torch.aminmax(weight)  # five times as quick as isfinite, and keeps NaN
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = ", ..." if len(names) > _NAMED else ""
    tensors = "tensor" if len(names) == 1 else "tensors"
    return [f"{len(names)} {tensors} {what} ({', '.join(names[:_NAMED])}{more})"]


def _wrong_shapes(checkpoint: Checkpoint, part: Part) -> list[str]:
    wrong = []
    for own, tensor in part.network.state_dict().items():
        place = part.tensors.get(own)
        if place is None:
            continue
        shape, wanted = place.shape, tuple(tensor.shape)
        if shape != wanted and not (part.as_linear(own) and shape == (*wanted, 1, 1)):
            stored = checkpoint.shapes[place.name]
            name = checkpoint.spelled(place.name)
            wrong.append(f"{name} {list(stored)} instead of {list(wanted)}")
    return wrong


def _computed(expected: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors that no file needs to hold: in older transformers the positions, counted from 0."""
    return {
        name: torch.arange(tensor.shape[-1], device=device).expand(tensor.shape)
        for name, tensor in expected.items()
        if name.endswith("position_ids")
    }


def _recreate_buffers(network: nn.Module, device: torch.device) -> None:
    """Compute what state dicts leave out and the meta device therefore left without numbers."""
    for path, buffer in list(network.named_buffers()):
        if buffer.device.type != "meta":
            continue
        owner, _, name = path.rpartition(".")
        if name != "position_ids":
            raise RuntimeError(f"buffer {path!r} can't be recomputed: unknown version of a library")
        positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
        network.get_submodule(owner).register_buffer(name, positions, persistent=False)
