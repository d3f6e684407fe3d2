"""Network files: a LoRA in kohya's layout, written, read back and checked."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import FileError
from .atomic import write_atomic
from .safetensors_file import read_header
from .serialise import legacy_hash, tensor_hash, write_file
from .tensor_file import FormatError, Place, shown

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

# Of alpha: bf16 rounds by up to 4e-3, and an alpha is a factor of all that was trained.
_ALPHA_ERROR = 1e-3

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

    precision: that of most of its factors ("fp16", "bf16", "fp32").
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

    A module that `precision` would silence, and an alpha that it would change, are kept in fp32.
    check: a further proof, made on the draft before it gets its name; it raises FileError. The
    hashes are added to the metadata. Equal arguments give equal bytes. Raises FileError: for an
    existing file unless `overwrite`, a full disk, factors that `precision` can't hold, and when
    what was read back is not what was to be written.
    """
    tensors = file_tensors(modules, precision)
    return write_tensors(
        path, tensors, metadata, modules=len(modules), overwrite=overwrite, check=check
    )


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    modules: int,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> WrittenFile:
    """Write the tensors of a network file by their full keys as `write_network` does."""
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
        modules=modules,
        sshs_model_hash=hashed["sshs_model_hash"],
    )


def file_tensors(modules: Mapping[str, Module], precision: str) -> dict[str, Tensor]:
    """The tensors of a file by their full key: `down`, `up` and a 0-dim `alpha` of each module."""
    dtype = DTYPES[precision]
    tensors = {}
    for key, (down, up, alpha) in modules.items():
        stored = _stored_factors((down.detach().cpu(), up.detach().cpu()), dtype)
        own = {DOWN: stored[0], UP: stored[1], ALPHA: stored_alpha(key, float(alpha), dtype)}
        for suffix, tensor in own.items():
            if not bool(torch.isfinite(tensor).all()):
                raise FileError(
                    f"{key}{suffix} holds numbers that are not finite in {precision}: the training "
                    "diverged, or they are too large; set output.precision to bf16 or fp32, or "
                    "train with a lower learning rate"
                )
            tensors[key + suffix] = tensor
    return tensors


def _stored_factors(factors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """`down` and `up` in `dtype`, or both in fp32 where one would come out as nothing but 0."""
    rounded = [factor.to(dtype) for factor in factors]
    silenced = any(
        bool(factor.any()) and not bool(own.any())
        for factor, own in zip(factors, rounded, strict=True)
    )
    return [factor.float() for factor in factors] if silenced else rounded


def stored_alpha(key: str, alpha: float, dtype: torch.dtype) -> Tensor:
    """Alpha in `dtype`, or in fp32 where that would change it; hosts read any float."""
    exact = torch.tensor(alpha, dtype=torch.float64)
    for kind in (dtype, torch.float32):
        stored = exact.to(kind)
        error = abs(float(stored) - alpha)
        if math.isfinite(error) and error <= _ALPHA_ERROR * abs(alpha):
            return stored
    raise FileError(f"{key}{ALPHA} is {alpha}, which fp32 can't hold; set another network.alpha")


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
    names = [key.removesuffix(UP) for key in tensors if key.endswith(UP)]
    others = (tensor for tensor in tensors.values() if not names)
    if not any(_acts(tensors, name) for name in names) and not any(bool(t.any()) for t in others):
        raise FileError(
            "the network changes nothing: `up`, `down` or alpha of each module is 0; train for "
            "more steps, or raise the learning rate"
        )


def _acts(tensors: Mapping[str, Tensor], name: str) -> bool:
    own = (tensors.get(name + end) for end in (DOWN, UP, ALPHA))
    return all(bool(tensor.any()) for tensor in own if tensor is not None)


def read_network(path: Path) -> NetworkFile:
    """Read a LoRA file. Raises FileError for what is not one, or damaged."""
    try:
        file = read_header(path)
        names = _module_names(path, file.places)
        modules, metadata = {}, dict(file.metadata)
        for name in names:
            keys = (name + suffix for suffix in (DOWN, UP, ALPHA))
            modules[name] = _module(
                path, name, {k: file.tensor(k) for k in keys if k in file.places}
            )
    except FormatError as error:
        raise FileError(
            f"{path} {error}: download or copy it again, or give another LoRA's .safetensors file"
        ) from error
    kinds = Counter(file.places[name + DOWN].dtype for name in names)
    dtype, _ = kinds.most_common(1)[0]
    precision = next((name for name, kind in DTYPES.items() if kind == dtype), "fp32")
    return NetworkFile(modules=modules, metadata=metadata, precision=precision)


def _module_names(path: Path, places: Mapping[str, Place]) -> list[str]:
    """The modules of a file by its keys, before any number is read. Raises FileError."""
    own = [key for key in places if _is_lora(key)]
    others = [key for key in places if not _is_lora(key)]
    names = {key.removesuffix(DOWN) for key in own if key.endswith(DOWN)}
    orphans = sorted(key for key in own if _module_of(key) not in names)
    if not names:
        raise FileError(f"{path} is not a LoRA: it has none of its keys, but {_some(others)}")
    if others:
        raise FileError(
            f"{path} holds {len(others)} tensors of a kind that is not read yet ({_some(others)}); "
            "only plain LoRA and its convolutions are"
        )
    if orphans:
        raise FileError(f"{path} is damaged: {_some(orphans)} belong to no whole module")
    return sorted(names)


def _module(path: Path, name: str, tensors: Mapping[str, Tensor]) -> Module:
    down, up = tensors[name + DOWN], tensors.get(name + UP, torch.empty(0))
    if not _fit(down, up):
        raise FileError(
            f"{path} is damaged: {shown(name)} lacks an `up` factor that fits its `down`"
        )
    if not (down.is_floating_point() and up.is_floating_point()):
        raise FileError(
            f"{path} holds {shown(name)} as whole numbers ({down.dtype}, {up.dtype}): a quantised "
            "LoRA is not read; give it as fp16, bf16 or fp32"
        )
    rank = down.shape[0]
    # A file without alpha means scale 1 in every host.
    stored = tensors.get(name + ALPHA, torch.tensor(float(rank)))
    if stored.numel() != 1:
        raise FileError(
            f"{path} is damaged: {shown(name + ALPHA)} is {stored.numel()} numbers, not one"
        )
    down, up, alpha = down.float(), up.float(), float(stored.float())
    if not (math.isfinite(alpha) and torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise FileError(f"{path} is damaged: {shown(name)} holds numbers that are not finite")
    return down, up, alpha


def _fit(down: Tensor, up: Tensor) -> bool:
    """Whether they are (R, I) and (O, R), or those of a convolution: (R, I, h, w), (O, R, 1, 1)."""
    return (
        down.dim() == up.dim()
        and down.dim() in {2, 4}
        and up.shape[1] == down.shape[0]
        and up.numel() == up.shape[0] * up.shape[1]
        and bool(down.numel() and up.numel())
    )


def _module_of(key: str) -> str:
    return next(key.removesuffix(suffix) for suffix in (DOWN, UP, ALPHA) if key.endswith(suffix))


def _is_lora(key: str) -> bool:
    return key.endswith((DOWN, UP, ALPHA))


def _some(keys: list[str]) -> str:
    return (
        ", ".join(map(shown, keys[:3])) + (", ..." if len(keys) > 3 else "") if keys else "nothing"
    )


def _opened(path: Path):
    """Open with the library that hosts read with: proof against a mistake of our own reader."""
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"{path} was written wrong ({error}): check the disk, then save again"
        ) from error
