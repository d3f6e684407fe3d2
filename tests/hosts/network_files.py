"""LoRA files of full size with random factors, for hosts to load, and what they should make."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.adapters.lora import LoRAWeights, lora_delta
from ...core.files.adapter_file import write_adapters
from ...core.files.names import kohya_key
from ...core.files.network_file import Module, read_network, write_network
from ...core.models.stored_weights import StoredWeights
from ..core.adapters.random_updates import random_updates

KEYS = Path(__file__).parents[1] / "core" / "files" / "keys"
RANK, ALPHA = 2, 1.0
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}
_POOL = 1 << 20
_ADAPTED = re.compile(
    r"attn\d\.to_|\.ff\.net\.(0\.proj|2)$|proj_(in|out)$|resnets\.\d+\.conv[12]$|"
    r"self_attn\.\w+_proj$|mlp\.fc\d$"
)


def write_family(folder: Path, family: str) -> Path:
    """Write every module of a family's frozen list, LoCon's convolutions among them, in fp16."""
    chance = torch.Generator().manual_seed(7)
    modules: dict[str, Module] = {}
    for key, down, up in _rows(family):
        modules[key] = (
            0.05 * torch.randn(down, generator=chance),
            0.05 * torch.randn(up, generator=chance),
            ALPHA,
        )
    metadata = {
        "ss_base_model_version": VERSIONS[family],
        "ss_v2": str(family == "sd2"),
        "ss_output_name": f"all-of-{family}",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA),
    }
    path = folder / f"all-of-{family}.safetensors"
    write_network(path, modules, metadata, "fp16")
    return path


def _rows(family: str) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    for line in (KEYS / f"{family}.txt").read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            _, key, down, up = line.split()
            yield key, _shape(down), _shape(up)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(RANK if side == "r" else int(side) for side in text.split(","))


def write_random(checkpoint: Path, path: Path, algorithm: str, seed: int = 0) -> Path:
    """Write a file of any algorithm with random numbers for what LoCon adapts of a checkpoint."""
    stored = StoredWeights(str(checkpoint))
    layers = {own: _Layer(stored.tensor(own)) for own in stored.layers if _ADAPTED.search(own)}
    updates = random_updates(algorithm, layers, 0.3, seed)
    own = {kohya_key(place): dict(update.tensors) for place, update in updates.items()}
    write_adapters(path, own, {"ss_output_name": path.stem, "ss_v2": "False"}, "fp32")
    return path


class _Layer(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float(), requires_grad=False)


def deltas_of(path: Path) -> dict[str, tuple[LoRAWeights, float]]:
    """By key what we read of a file: the factors and the scale of each module's update."""
    modules = read_network(path).modules
    return {
        key: (LoRAWeights(down, up), alpha / down.shape[0])
        for key, (down, up, alpha) in modules.items()
    }


def delta(module: tuple[LoRAWeights, float]) -> Tensor:
    """The update of one module in the shape of its layer's weight."""
    return lora_delta(*module)


class Weights:
    """Random numbers for weights of any size, quicker to make than to draw anew. fp32."""

    def __init__(self) -> None:
        self._pool = 0.02 * torch.randn(_POOL, generator=torch.Generator().manual_seed(3))

    def of(self, shape: torch.Size) -> Tensor:
        """A weight of this shape, in memory of its own."""
        count = shape.numel()
        return self._pool.repeat(-(-count // _POOL))[:count].reshape(shape).clone()
