"""Random updates of every algorithm for the layers of a model, small enough to draw with."""

import math

import torch
from torch import Tensor, nn

from lora_loop.core.adapters.forms import Update

RANK = 2


def _chance(seed: int):
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int, size: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=stream) * size

    return normal


def _lora(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    ones = (1,) * (weight.dim() - 2)
    down = normal(RANK, *weight.shape[1:], size=weight[0].numel() ** -0.5)
    up = normal(len(weight), RANK, *ones, size=size * RANK**-0.5)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}


def _tucker(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    if weight.dim() != 4 or weight.shape[-1] == 1:
        return _lora(normal, weight, size)
    outputs, inputs, *kernel = weight.shape
    return {
        "lora_down.weight": normal(RANK, inputs, 1, 1, size=inputs**-0.5),
        "lora_mid.weight": normal(RANK, RANK, *kernel, size=size),
        "lora_up.weight": normal(outputs, RANK, 1, 1),
        "alpha": torch.tensor(1.0),
    }


def _loha(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    outputs, inputs = len(weight), weight[0].numel()
    return {
        "hada_w1_a": normal(outputs, RANK, size=size * inputs**-0.5),
        "hada_w1_b": normal(RANK, inputs),
        "hada_w2_a": normal(outputs, RANK, size=0.5),
        "hada_w2_b": normal(RANK, inputs),
        "alpha": torch.tensor(1.0),
    }


def _lokr(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    outputs, inputs, *kernel = weight.shape
    return {
        "lokr_w1": normal(2, 2),
        "lokr_w2_a": normal(outputs // 2, RANK, size=size * inputs**-0.5),
        "lokr_w2_b": normal(RANK, inputs // 2 * math.prod(kernel), size=0.5),
        "alpha": torch.tensor(1.0),
    }


def _dora(axis: int):
    def make(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
        others = [side for side in range(weight.dim()) if side != axis]
        length = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return {
            **_lora(normal, weight, size),
            "dora_scale": length * (1 + normal(*length.shape, size=size)),
        }

    return make


def _ia3(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    return {"weight": normal(len(weight), size=size), "on_input": torch.tensor(0)}


def _full(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    return {"diff": normal(*weight.shape, size=size * weight[0].numel() ** -0.5)}


def _glora(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    outputs, inputs, *kernel = weight.shape
    ones = (1,) * len(kernel)
    return {
        "a1.weight": normal(inputs, RANK, *ones, size=size * RANK**-0.5),
        "a2.weight": normal(RANK, inputs, *ones, size=inputs**-0.5),
        "b1.weight": normal(outputs, RANK, *ones, size=size),
        "b2.weight": normal(RANK, inputs, *kernel, size=weight[0].numel() ** -0.5),
        "alpha": torch.tensor(1.0),
    }


def _oft(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    return {"oft_blocks": normal(len(weight) // 4, 4, 4, size=size)}


def _boft(normal, weight: Tensor, size: float) -> dict[str, Tensor]:
    return {"oft_blocks": normal(2, len(weight) // 4, 4, 4, size=size), "alpha": torch.zeros(())}


ALGORITHMS = {
    "lora": _lora,
    "locon of Tucker": _tucker,
    "loha": _loha,
    "lokr": _lokr,
    "dora on outputs": _dora(0),
    "dora on inputs": _dora(1),
    "ia3": _ia3,
    "full": _full,
    "glora": _glora,
    "oft": _oft,
    "boft": _boft,
}


def random_updates(
    algorithm: str, layers: dict[str, nn.Module], size: float, seed: int = 0
) -> dict[str, Update]:
    """An update for each layer; norms among them get one of their own, as LyCORIS gives them."""
    normal = _chance(seed)
    updates = {}
    for path, layer in layers.items():
        weight = layer.get_parameter("weight").detach().float()
        if weight.dim() == 1:
            tensors = {
                "w_norm": normal(len(weight), size=size),
                "b_norm": normal(len(weight), size=size),
            }
        else:
            tensors = ALGORITHMS[algorithm](normal, weight, size)
        updates[path] = Update(tensors)
    return updates
