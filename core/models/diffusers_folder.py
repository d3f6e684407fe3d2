"""Folders as diffusers saves them: one sub-folder for each network, with its own names.

Layout: model_index.json (the pipeline's class), unet, vae, text_encoder and text_encoder_2 with
config.json and weights (one file, or several and an index), scheduler/scheduler_config.json.
Source: diffusers `pipeline_utils.py`, `utils/constants.py`; transformers `modeling_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.tensor_file import shown
from . import keymaps
from .checkpoint import Checkpoint, Shapes, open_checkpoint
from .keymaps import UNET_PREFIX, VAE_PREFIX, UNetLayout, VaeLayout

INDEX = "model_index.json"

_LARGEST_JSON = 16 << 20
# full precision first, and what no pickle holds before what one does
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16")
_ENDINGS = (".safetensors", ".bin")
# what pipelines without a U-Net are called -> whose they are
_OTHERS = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "Flux",
    "PixArt": "PixArt",
    "AuraFlow": "AuraFlow",
    "StableCascade": "Stable Cascade",
    "Wuerstchen": "Wuerstchen",
    "Hunyuan": "HunyuanDiT",
    "Lumina": "Lumina",
    "Sana": "Sana",
    "Kandinsky": "Kandinsky",
    "Wan": "a video model",
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_REMEDY = "give the folder of a Stable Diffusion 1.x, 2.x or XL pipeline, or a single file"


def open_folder(path: Path) -> Checkpoint:
    """Open a pipeline's folder as if it were one file of LDM's names.

    Raises CheckpointError where it is none, is another family's, or a part can't be read.
    """
    index, folder = _json(path / INDEX), path / "unet"
    if not folder.is_dir():
        raise CheckpointError(f"{path} {_what_it_is(index)}; {_REMEDY}")
    parts = {
        name: open_component(path / name)
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        if (path / name).is_dir()
    }
    names = dict(_single_file_names(parts))
    shapes = {ldm: parts[part].shapes[own] for ldm, (part, own) in names.items()}
    unet_map = keymaps.unet_map(unet_layout(parts["unet"].shapes))
    vae = parts.get("vae")
    vae_map = keymaps.vae_map(vae_layout(vae.shapes)) if vae else {}

    def tensor(name: str):
        part, own = names[name]
        return parts[part].tensor(own)

    def spelled(name: str) -> str:
        if name in names:
            return "/".join(names[name])
        for prefix, part, known in ((UNET_PREFIX, "unet", unet_map), (VAE_PREFIX, "vae", vae_map)):
            if name.startswith(prefix):
                inside = name.removeprefix(prefix)
                return f"{part}/{known.get(inside, inside)}"
        return name

    return Checkpoint(
        path=path,
        shapes=shapes,
        metadata=_facts(path),
        tensor=tensor,
        spelled=spelled,
        files=tuple(file for part in parts.values() for file in part.files),
    )


def open_component(folder: Path) -> Checkpoint:
    """Open one network's folder; names are as its files have them.

    metadata: `scaling_factor`, where the configuration has one. Raises CheckpointError.
    """
    opened = [open_checkpoint(file) for file in _weight_files(folder)]
    holders: dict[str, Checkpoint] = {}
    for file in opened:
        twice = next((name for name in file.shapes if name in holders), None)
        if twice is not None:
            raise CheckpointError(
                f"{folder} holds tensor {twice!r} in two files, {holders[twice].path.name} and "
                f"{file.path.name}: download the folder again"
            )
        holders |= dict.fromkeys(file.shapes, file)
    scale = _json(folder / "config.json").get("scaling_factor")
    return Checkpoint(
        path=folder,
        shapes={name: file.shapes[name] for name, file in holders.items()},
        metadata={} if scale is None else {"scaling_factor": str(scale)},
        tensor=lambda name: holders[name].tensor(name),
        files=tuple(file.path for file in opened),
    )


def unet_layout(shapes: Shapes) -> UNetLayout:
    """As much of a U-Net's layout as its names in diffusers' spelling depend on."""
    levels = _count(shapes, "down_blocks.{}.resnets.0.conv1.weight")
    blocks = [f"down_blocks.{level}" for level in range(levels)]
    label = shapes.get("add_embedding.linear_1.weight", ())
    return UNetLayout(
        widths=tuple(_rows(shapes[f"{block}.resnets.0.conv1.weight"]) for block in blocks),
        resnets=_count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
        depths=tuple(_depth(shapes, f"{block}.attentions.0") for block in blocks),
        middle_depth=_depth(shapes, "mid_block.attentions.0"),
        heads=(1,) * levels,
        label=label[-1] if label else 0,
    )


def vae_layout(shapes: Shapes) -> VaeLayout:
    """A VAE's layout by its names in diffusers' spelling."""
    levels = _count(shapes, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    first = (f"encoder.down_blocks.{level}.resnets.0.conv1.weight" for level in range(levels))
    return VaeLayout(
        widths=tuple(_rows(shapes[name]) for name in first),
        resnets=_count(shapes, "encoder.down_blocks.0.resnets.{}.conv1.weight"),
    )


def vae_names(shapes: Shapes) -> dict[str, str]:
    """A VAE's names in diffusers' spelling, old or new -> LDM's; empty where it has LDM's."""
    layout = vae_layout(shapes)
    if not layout.widths:
        return {}
    known = keymaps.inverted(keymaps.vae_map(layout))
    return {name: known[new] for name in shapes if (new := _renamed(name)) in known}


def _renamed(name: str) -> str:
    """Attention's names before diffusers 0.17, which the files of that time still have."""
    module, _, end = name.rpartition(".")
    place, _, kind = module.rpartition(".")
    if ".attentions." in module and kind in _OLD_ATTENTION:
        return f"{place}.{_OLD_ATTENTION[kind]}.{end}"
    return name


def _single_file_names(parts: Mapping[str, Checkpoint]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(LDM's name with prefix, (part, own name)); what has none keeps its own, to be refused."""
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, **_text_prefixes(parts)}
    for part, opened in parts.items():
        if part == "unet":
            known = keymaps.inverted(keymaps.unet_map(unet_layout(opened.shapes)))
        else:
            known = vae_names(opened.shapes) if part == "vae" else {}
        for name in opened.shapes:
            yield prefixes[part] + known.get(name, name), (part, name)


def _text_prefixes(parts: Mapping[str, Checkpoint]) -> dict[str, str]:
    if "text_encoder_2" not in parts:
        return {"text_encoder": "cond_stage_model.transformer."}
    if "text_encoder" not in parts:  # the refiner, by which it is known
        return {"text_encoder_2": "conditioner.embedders.0.model."}
    numbered = enumerate(("text_encoder", "text_encoder_2"))
    return {part: f"conditioner.embedders.{number}.transformer." for number, part in numbered}


def _facts(path: Path) -> dict[str, str]:
    """What the folder's configurations say, in the words of a single file's metadata."""
    facts = {}
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    if isinstance(scheduler.get("prediction_type"), str):
        facts["prediction_type"] = scheduler["prediction_type"]
    if scheduler.get("rescale_betas_zero_snr") is True:
        facts["ztsnr"] = "true"
    side = _json(path / "unet" / "config.json").get("sample_size")
    if isinstance(side, int):
        facts["modelspec.resolution"] = f"{8 * side}x{8 * side}"
    return facts


def _what_it_is(index: Mapping[str, Any]) -> str:
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        return f"is a folder, and no pipeline of diffusers' (no {INDEX} and unet in it)"
    title = next((title for start, title in _OTHERS.items() if kind.startswith(start)), kind)
    return f"is {title}, in diffusers' layout ({kind}), which can't be trained yet"


def _weight_files(folder: Path) -> list[Path]:
    """The files with a network's weights: the best variant there is, whole or in parts."""
    for ending in _ENDINGS:
        for variant in _VARIANTS:
            for stem in _STEMS:
                whole = folder / f"{stem}{variant}{ending}"
                if whole.is_file():
                    return [whole]
                for index in (
                    folder / f"{stem}{variant}{ending}.index.json",
                    folder / f"{stem}{ending}.index{variant}.json",
                ):
                    if index.is_file():
                        return _shards(index)
    raise CheckpointError(
        f"{folder} holds no weights ({_STEMS[0]}.safetensors or the like): download the folder "
        "again, or give a single file"
    )


def _shards(index: Path) -> list[Path]:
    table = _json(index).get("weight_map")
    values = list(table.values()) if isinstance(table, dict) else []
    names = sorted({name for name in values if isinstance(name, str) and Path(name).name == name})
    if not names or len(names) < len({str(value) for value in values}):
        raise CheckpointError(f"{index} names no files: download the folder again")
    there = {file.name for file in index.parent.iterdir()}  # asking for a name may be an error
    missing = [name for name in names if name not in there]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of the {len(names)} files with its weights "
            f"({shown(missing[0])}): download the folder again"
        )
    return [index.parent / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    """A configuration; empty where there is no such file. Raises CheckpointError."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} can't be read as JSON ({error}): download the folder again"
        ) from error
    return found if isinstance(found, dict) else {}


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 0


def _count(shapes: Shapes, pattern: str) -> int:
    return next(number for number in count() if pattern.format(number) not in shapes)


def _depth(shapes: Shapes, attention: str) -> int:
    return _count(shapes, attention + ".transformer_blocks.{}.norm1.weight")
