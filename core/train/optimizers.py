"""Optimizers by name. Optional packages are imported inside their builder."""

from collections.abc import Callable
from typing import Any

import torch

from ..adapters.targets import UNET
from ..config.recipe import OptimizerConfig

ParameterGroups = list[dict[str, Any]]


def _adamw(groups: ParameterGroups, config: OptimizerConfig) -> torch.optim.Optimizer:
    kinds = {parameter.device.type for group in groups for parameter in group["params"]}
    torch_version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    # One kernel for all factors instead of a dozen for each of hundreds of small tensors.
    fused = kinds == {"cuda"} or (kinds == {"cpu"} and torch_version >= (2, 4))
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)


OPTIMIZERS: dict[str, Callable[[ParameterGroups, OptimizerConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
}


def make_optimizer(
    parts: dict[str, list[torch.nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """One parameter group for each part, the text encoders' at one rate and the U-Net's at its own.

    Each group keeps its base rate under "base_lr"; the loop sets "lr" from it at every step.
    """
    rates = {part: config.unet_lr if part == UNET else config.text_encoder_lr for part in parts}
    groups: ParameterGroups = [
        {"params": parameters, "lr": rates[part], "base_lr": rates[part], "name": part}
        for part, parameters in parts.items()
        if parameters
    ]
    return OPTIMIZERS[config.name](groups, config)
