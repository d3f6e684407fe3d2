"""Network files: a LoRA in kohya's layout, written, read back and checked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FileError
from .atomic import write_atomic
from .serialise import legacy_hash, tensor_hash, write_file

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

# A module's `down` and `up` factors and its alpha.
Module = tuple[Tensor, Tensor, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A network file that was read back and holds what it should."""

    path: Path
    bytes: int
    modules: int
    sshs_model_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """A network file's content: modules by kohya key (without suffix), fp32, and its metadata.

    precision: that of its factors ("fp16", "bf16", "fp32").
    """

    modules: dict[str, Module]
    metadata: dict[str, str]
    precision: str


def write_network(
    path: Path,
    modules: Mapping[str, Module],
    metadata: Mapping[str, str],
    precision: str = "fp16",
    *,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> WrittenFile:
    """Write modules by kohya key as a safetensors file, whole or not at all, and check it.

    check: a further proof, made on the draft before it gets its name; it raises FileError. The
    hashes are added to the metadata. Equal arguments give equal bytes. Raises FileError: for an
    existing file unless `overwrite`, a full disk, factors that `precision` can't hold, and when
    what was read back is not what was to be written.
    """
    tensors = file_tensors(modules, precision)
    hashed = {**metadata, "sshs_model_hash": tensor_hash(tensors)}
    hashed["sshs_legacy_hash"] = legacy_hash(tensors, metadata)

    def write(draft: Path) -> None:
        write_file(draft, tensors, hashed)
        verify_network(draft, tensors)
        if check is not None:
            check(draft)

    write_atomic(path, write, overwrite=overwrite)
    return WrittenFile(
        path=path,
        bytes=path.stat().st_size,
        modules=len(modules),
        sshs_model_hash=hashed["sshs_model_hash"],
    )


def file_tensors(modules: Mapping[str, Module], precision: str) -> dict[str, Tensor]:
    """The tensors of a file by their full key: `down`, `up` and a 0-dim `alpha` of each module."""
    dtype = DTYPES[precision]
    tensors = {}
    for key, (down, up, alpha) in modules.items():
        own = {DOWN: down.detach(), UP: up.detach(), ALPHA: torch.tensor(float(alpha))}
        for suffix, tensor in own.items():
            stored = tensor.to("cpu", dtype)
            if not bool(torch.isfinite(stored).all()):
                raise FileError(
                    f"{key}{suffix} holds numbers that are not finite in {precision}: the training "
                    "diverged, or they are too large; set output.precision to bf16 or fp32, or "
                    "train with a lower learning rate"
                )
            tensors[key + suffix] = stored
    return tensors


def verify_network(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a file back and compare every key and every number. Raises FileError."""
    with _opened(path) as file:
        keys = set(file.keys())
        if keys != set(tensors):
            missing, extra = set(tensors) - keys, keys - set(tensors)
            raise FileError(
                f"{path} was written wrong: {len(missing)} keys missing, {len(extra)} too many"
            )
        for key, tensor in tensors.items():
            if not torch.equal(file.get_tensor(key), tensor):
                raise FileError(
                    f"{path} was written wrong: {key} differs; check the disk, then save again"
                )
    if not any(bool(tensor.any()) for key, tensor in tensors.items() if key.endswith(UP)):
        raise FileError(
            "the network changes nothing: all its `up` factors are 0 in the file; train for more "
            "steps, raise the learning rate, or set output.precision to fp32"
        )


def read_network(path: Path) -> NetworkFile:
    """Read a LoRA file. Raises FileError for what is not one, or damaged."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys() if _is_lora(key)}  # noqa: SIM118
        others = [key for key in file.keys() if not _is_lora(key)]  # noqa: SIM118
    names = sorted({key[: -len(DOWN)] for key in tensors if key.endswith(DOWN)})
    known = set(names)
    orphans = sorted(key for key in tensors if _module_of(key) not in known)
    if not names:
        raise FileError(f"{path} is not a LoRA: it has none of its keys, but {_some(others)}")
    if others:
        raise FileError(
            f"{path} holds {len(others)} tensors of a kind that is not read yet ({_some(others)}); "
            "only plain LoRA and its convolutions are"
        )
    if orphans:
        raise FileError(f"{path} is damaged: {_some(orphans)} belong to no whole module")
    modules = {name: _module(path, name, tensors) for name in names}
    dtype = tensors[names[0] + DOWN].dtype
    precision = next((name for name, kind in DTYPES.items() if kind == dtype), "fp32")
    return NetworkFile(modules=modules, metadata=metadata, precision=precision)


def _module(path: Path, name: str, tensors: Mapping[str, Tensor]) -> Module:
    down, up = tensors[name + DOWN].float(), tensors.get(name + UP, torch.empty(0)).float()
    if up.dim() < 2 or down.dim() < 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise FileError(f"{path} is damaged: {name} lacks an `up` factor that fits its `down`")
    rank = down.shape[0]
    # A file without alpha means scale 1 in every host.
    stored = tensors.get(name + ALPHA, torch.tensor(float(rank)))
    if stored.numel() != 1:
        raise FileError(f"{path} is damaged: {name}{ALPHA} is {stored.numel()} numbers, not one")
    alpha = float(stored)
    if not (math.isfinite(alpha) and torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise FileError(f"{path} is damaged: {name} holds numbers that are not finite")
    return down, up, alpha


def _module_of(key: str) -> str:
    return next(key.removesuffix(suffix) for suffix in (DOWN, UP, ALPHA) if key.endswith(suffix))


def _is_lora(key: str) -> bool:
    return key.endswith((DOWN, UP, ALPHA))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "") if keys else "nothing"


def _opened(path: Path):
    if not path.is_file():
        raise FileError(f"{path} is not a file; give a LoRA's .safetensors file")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"{path} can't be read as safetensors ({error}): it is cut off, damaged or of another "
            "kind; copy or download it again"
        ) from error
