"""Loss weights by noise level, and the loss itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .schedule import Prediction


def min_snr_weight(alpha_bar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Weigh the loss by min(SNR, gamma) / SNR, for v by min(SNR, gamma) / (SNR + 1).

    Hang et al. 2023, section 3.4. alpha_bar: (B,), in [0, 1]; gamma: 0 or more, 0 means all ones.
    SNR = alpha_bar / (1 - alpha_bar); written so that nothing is divided by 0: at SNR 0 (zero
    terminal SNR) the weight is 1 for epsilon and 0 for v, at infinite SNR 0 for both.
    """
    alpha_bar = alpha_bar.float()
    if gamma == 0:
        return torch.ones_like(alpha_bar)
    if prediction == "v":
        return torch.minimum(alpha_bar, gamma * (1 - alpha_bar))
    smallest = torch.finfo(torch.float32).tiny
    return (gamma * (1 - alpha_bar) / alpha_bar.clamp(min=smallest)).clamp(max=1)


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Give the batch's mean of weight x a sample's mean squared error, a float32 scalar.

    prediction and target: (B, ..), any dtype, the error is taken in float32; weight: (B,).
    """
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return (error * weight.float()).mean()
