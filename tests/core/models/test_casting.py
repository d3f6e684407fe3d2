"""Layers that convert their weight at each use: the plain layers' numbers and gradients."""

import pytest
import torch
from torch import nn

from lora_loop.core.models.casting import cast_at_use

NARROW = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def network(dtype: torch.dtype) -> nn.Sequential:
    """Random weights rounded to `dtype`, stored in fp32, vectors as they are."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Embedding(11, 6),
        nn.Linear(6, 4),
        nn.Unflatten(1, (2, 2)),
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Flatten(1, 2),
        nn.LayerNorm(2),
        nn.Linear(2, 5, bias=False),
    )
    for parameter in layers.parameters():
        if parameter.dim() >= 2:
            parameter.data = parameter.data.to(dtype).float()
    return layers.requires_grad_(False)


def narrowed(layers: nn.Sequential, dtype: torch.dtype) -> nn.Sequential:
    for parameter in layers.parameters():
        if parameter.dim() >= 2:
            parameter.data = parameter.data.to(dtype)
    return layers


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_numbers_and_gradients_are_those_of_wide_layers(dtype):
    wide, narrow = network(dtype), narrowed(network(dtype), dtype)
    largest = cast_at_use(narrow, torch.float32)
    assert largest == 3 * 2 * 3 * 3 * 4  # the convolution's, in fp32; of a table only rows
    ids = torch.tensor([[1, 2, 10, 0], [0, 5, 5, 3]])
    assert torch.equal(wide[0](ids), narrow[0](ids))
    gradients = []
    for layers in (wide, narrow):
        x = layers[0](ids).requires_grad_(True)
        out = layers[1:](x)
        out.square().sum().backward()
        gradients.append((out.detach(), x.grad))
    (out, gradient), (narrow_out, narrow_gradient) = gradients
    torch.testing.assert_close(narrow_out, out)
    torch.testing.assert_close(narrow_gradient, gradient)
    with torch.no_grad():
        torch.testing.assert_close(narrow(ids), out)
    assert {p.dtype for p in narrow.parameters() if p.dim() >= 2} == {dtype}


def test_no_converted_weight_is_kept_for_the_backward_pass():
    layers = narrowed(network(torch.float16), torch.float16)
    cast_at_use(layers, torch.float32)
    x = layers[0](torch.tensor([[1, 2, 10, 0]])).requires_grad_(True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layers[1:](x)
    shapes = {tuple(tensor.shape) for tensor in kept}
    assert not shapes & {(4, 6), (6, 4), (3, 2, 3, 3), (5, 2), (2, 5)}


def test_layers_of_the_runs_own_dtype_stay_what_they_are():
    layers = network(torch.float32)
    before = list(layers)
    assert cast_at_use(layers, torch.float32) == 0
    assert list(layers) == before


def test_a_layer_that_cant_cast_is_an_error():
    with pytest.raises(RuntimeError, match="layer '0' can't cast its weight: Conv1d"):
        cast_at_use(nn.Sequential(nn.Conv1d(2, 2, 1).half()), torch.float32)
