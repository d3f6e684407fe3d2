"""Adapter files of any algorithm and any tool, read as layers of tensors by kohya's names."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError
from .names import own_key
from .network_file import DTYPES, WrittenFile, stored_alpha, write_tensors
from .safetensors_file import read_header
from .spellings import ALPHA, DOWN, family_of, foreign_family, spelled
from .tensor_file import FormatError, TensorFile, shown

Layers = dict[str, dict[str, Tensor]]
_INPUTS = {DOWN: 1, "hada_w1_b": 1, "diff": 1, "a2.weight": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """A network file's content.

    layers: tensors as they are stored, by kohya key and suffix. precision: that of most of them.
    unknown: keys that belong to no adapter, which were left apart. family: "sd1", "sd2", "sdxl",
    None where nothing tells it.
    """

    path: Path
    layers: Layers
    metadata: dict[str, str]
    precision: str
    unknown: tuple[str, ...]
    family: str | None


def read_adapters(path: Path) -> AdapterFile:
    """Read a LoRA or LyCORIS file. Raises FileError for what is not one, or damaged.

    Kohya's, diffusers', peft's and ComfyUI's names are understood.
    """
    try:
        file = read_header(path)
        layers, unknown = _read_layers(path, file)
    except FormatError as error:
        raise FileError(
            f"{path} {error}: download or copy it again, or give another LoRA's .safetensors file"
        ) from error
    widths = {key: _inputs(tensors) for key, tensors in layers.items()}
    metadata = dict(file.metadata)
    family = family_of(widths, metadata)
    if family is not None:
        layers = _own_names(path, layers, family)
    kinds = Counter(t.dtype for tensors in layers.values() for t in tensors.values() if t.dim())
    dtype = kinds.most_common(1)[0][0] if kinds else torch.float32
    return AdapterFile(
        path=path,
        layers=layers,
        metadata=metadata,
        precision=next((name for name, kind in DTYPES.items() if kind == dtype), "fp32"),
        unknown=unknown,
        family=family,
    )


def write_adapters(
    path: Path,
    layers: Mapping[str, Mapping[str, Tensor]],
    metadata: Mapping[str, str],
    precision: str = "fp16",
    *,
    overwrite: bool = False,
) -> WrittenFile:
    """Write layers of any algorithm, whole or not at all, and read them back.

    Raises FileError for an existing file unless `overwrite`, a full disk, and numbers that
    `precision` can't hold.
    """
    tensors: dict[str, Tensor] = {}
    for key, own in layers.items():
        for suffix, tensor in own.items():
            tensors[f"{key}.{suffix}"] = _stored(f"{key}.{suffix}", suffix, tensor, precision)
    return write_tensors(path, tensors, metadata, overwrite=overwrite, modules=len(layers))


def _stored(key: str, suffix: str, tensor: Tensor, precision: str) -> Tensor:
    dtype = DTYPES[precision]
    if not tensor.is_floating_point():
        return tensor.detach().cpu()
    if suffix == ALPHA:
        return stored_alpha(key.removesuffix(f".{ALPHA}"), float(tensor), dtype)
    rounded = tensor.detach().cpu().to(dtype)
    if bool(tensor.any()) and not bool(rounded.any()):
        rounded = tensor.detach().cpu().float()
    if not bool(torch.isfinite(rounded).all()):
        raise FileError(
            f"{key} holds numbers that are not finite in {precision}; choose bf16 or fp32"
        )
    return rounded.contiguous()


def _read_layers(path: Path, file: TensorFile) -> tuple[Layers, tuple[str, ...]]:
    if foreign := foreign_family(file.places):
        raise FileError(
            f"{path} is made for {foreign}, which is not drawn with yet; give a LoRA for Stable "
            "Diffusion 1.x, 2.x or XL"
        )
    layers: Layers = {}
    unknown = []
    for key in sorted(file.places):
        name = spelled(key, file.places)
        if name is None:
            unknown.append(key)
            continue
        own = layers.setdefault(name.layer, {})
        if name.suffix in own:
            raise _twice(path, name.layer)
        own[name.suffix] = _checked(path, key, file.tensor(key), name.suffix)
    for key in [key for key, own in layers.items() if set(own) <= {ALPHA}]:
        unknown.append(f"{key}.{ALPHA}")
        del layers[key]
    if not layers:
        some = ", ".join(shown(key) for key in unknown[:3]) or "nothing"
        raise FileError(f"{path} is not a LoRA: it has none of its keys, but {some}")
    return layers, tuple(unknown)


def _checked(path: Path, key: str, tensor: Tensor, suffix: str) -> Tensor:
    if suffix == "on_input":
        return tensor
    if not tensor.is_floating_point() and suffix != ALPHA:
        raise FileError(
            f"{path} holds {shown(key)} as whole numbers ({tensor.dtype}): a quantised network is "
            "not read; give it as fp16, bf16 or fp32"
        )
    if not tensor.numel() or (suffix == ALPHA and tensor.numel() != 1):
        raise FileError(f"{path} is damaged: {shown(key)} is {tensor.numel()} numbers")
    tensor = tensor.float() if tensor.element_size() < 2 or suffix == ALPHA else tensor
    if not bool(torch.isfinite(tensor).all()):
        raise FileError(f"{path} is damaged: {shown(key)} holds numbers that are not finite")
    if suffix == ALPHA:
        return tensor.reshape(())
    if "lora_magnitude_vector" in key:
        # peft's lengths run along the outputs: (O,), for convolutions (1, O, 1, 1)
        return tensor.reshape(-1, *(1 for _ in range(max(tensor.dim() - 1, 1))))
    return tensor


def _inputs(tensors: Mapping[str, Tensor]) -> int:
    """A layer's number of inputs where its tensors tell it, else 0."""
    for suffix, axis in _INPUTS.items():
        if suffix in tensors and tensors[suffix].dim() > axis:
            return tensors[suffix].shape[axis]
    return 0


def _own_names(path: Path, layers: Layers, family: str) -> Layers:
    """Layers under the names that kohya has for this family."""
    own: Layers = {}
    for key, tensors in layers.items():
        name = own_key(key, family)
        if family != "sdxl":
            name = re.sub("^lora_te1_", "lora_te_", name)
        if name in own:
            raise _twice(path, name)
        own[name] = tensors
    return own


def _twice(path: Path, name: str) -> FileError:
    return FileError(
        f"{path} holds {shown(name)} twice, by two spellings of its name: it is no whole network; "
        "make it anew with the tool that wrote it"
    )
