"""A network as hosts that patch their own model take it: a file's tensors, without a file."""

import torch
from torch import Tensor

from ..adapters.network import Network
from ..files.names import kohya_key
from ..files.network_file import ALPHA, DOWN, UP


def network_tensors(network: Network, family: str) -> dict[str, Tensor]:
    """The factors by a network file's keys, sharing the network's memory; alphas are 0-dim."""
    tensors = {}
    for path, weights in network.weights().items():
        key = kohya_key(path, family)
        tensors[key + DOWN] = weights.down_RI
        tensors[key + UP] = weights.up_OR
        tensors[key + ALPHA] = torch.tensor(weights.alpha)
    return tensors
