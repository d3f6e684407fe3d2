"""Which number format a run computes in, and loss scaling where it needs one."""

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Precision:
    """`compute`: dtype of the base's weights and activations; factors stay fp32 masters."""

    compute: torch.dtype
    loss_scaling: bool


PRECISIONS = {
    "fp32": Precision(torch.float32, loss_scaling=False),
    "bf16": Precision(torch.bfloat16, loss_scaling=False),
    "fp16": Precision(torch.float16, loss_scaling=True),
}


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The recipe's `memory.precision` on this device.

    "auto" is fp32 on a CPU, bf16 on a GPU that computes in it, else fp16. Asking for bf16 on a GPU
    without it (before Ampere) is a ConfigError rather than a run at a tenth of the speed.
    """
    on_gpu = device.type == "cuda"
    has_bf16 = on_gpu and torch.cuda.get_device_capability(device)[0] >= 8
    if name == "auto":
        if not on_gpu:
            return PRECISIONS["fp32"]
        return PRECISIONS["bf16" if has_bf16 else "fp16"]
    if name == "bf16" and on_gpu and not has_bf16:
        raise ConfigError(
            f"memory.precision is bf16, but {torch.cuda.get_device_name(device)} does not compute "
            "in it; use fp16 or auto"
        )
    if name == "fp16" and device.type == "cpu":
        raise ConfigError(
            "memory.precision is fp16, which a CPU does not train in; use fp32 or bf16"
        )
    return PRECISIONS[name]


def suit_precision(name: str, device: torch.device, stored: torch.dtype) -> Precision:
    """The recipe's `memory.precision` on this device for weights that are in memory already.

    As `resolve_precision`, but "auto" on a GPU computes in the weights' own half precision where
    they have one, so that none is converted.
    """
    resolved = resolve_precision(name, device)
    is_half = stored in {torch.float16, torch.bfloat16}
    if name != "auto" or device.type != "cuda" or not is_half:
        return resolved
    return resolve_precision("bf16" if stored == torch.bfloat16 else "fp16", device)


def precision_of(compute: torch.dtype) -> Precision:
    """The precision whose weights and activations are of this dtype."""
    return next(precision for precision in PRECISIONS.values() if precision.compute == compute)


def make_scaler(precision: Precision, device: torch.device) -> Any:
    """A gradient scaler that does nothing unless the precision needs loss scaling."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=precision.loss_scaling)
    return torch.cuda.amp.GradScaler(enabled=precision.loss_scaling)  # torch before 2.3
