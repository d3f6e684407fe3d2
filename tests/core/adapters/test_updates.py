"""The hot path: gradients by finite differences, forward by merged weight, what it saves."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from lora_loop.core.adapters.lora import LoRALayer, LoRAWeights, lora_delta, wrap

SCALE = 0.7


class Case(NamedTuple):
    base: nn.Linear | nn.Conv2d
    x: tuple[int, ...]


CASES = {
    "linear": Case(nn.Linear(5, 4), (2, 3, 5)),
    "linear without bias": Case(nn.Linear(5, 4, bias=False), (3, 5)),
    "1x1": Case(nn.Conv2d(5, 4, 1), (2, 5, 3, 2)),
    "3x3": Case(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 4, 5)),
    "3x3 stride 2": Case(nn.Conv2d(3, 4, 3, stride=2, padding=1), (1, 3, 6, 5)),
    "3x3 dilated": Case(nn.Conv2d(3, 4, (3, 1), dilation=2, bias=False), (1, 3, 6, 5)),
}


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(
    base: nn.Linear | nn.Conv2d, dtype: torch.dtype = torch.float64, rank: int = 2
) -> LoRAWeights:
    shape = base.weight.shape
    down = torch.randn(rank, *shape[1:], dtype=dtype, generator=chance(1))
    up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), dtype=dtype, generator=chance(2))
    return LoRAWeights(down, up)


def gradients(*tensors: Tensor) -> list[Tensor]:
    found = [tensor.grad for tensor in tensors if tensor.grad is not None]
    assert len(found) == len(tensors)
    return found


def adapted(name: str) -> tuple[LoRALayer, Tensor]:
    base = CASES[name].base.double().requires_grad_(False)
    x = torch.randn(CASES[name].x, dtype=torch.float64, generator=chance())
    return wrap(base, factors(base), SCALE), x


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    layer, x = adapted(name)

    def output(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return layer._update(x, down, up, SCALE)

    inputs = (x.requires_grad_(), layer.down, layer.up)
    assert torch.autograd.gradcheck(output, inputs)


@pytest.mark.parametrize("name", CASES)
def test_forward_is_that_of_the_merged_weight(name: str) -> None:
    layer, x = adapted(name)
    weight = layer.weight + lora_delta(LoRAWeights(layer.down, layer.up), SCALE)
    merged = torch.func.functional_call(layer.base, {"weight": weight}, x)
    assert_close(layer(x), merged)
    with torch.no_grad():
        assert_close(layer(x), merged)
    layer.strength = -0.5
    half = layer.weight - 0.5 * lora_delta(LoRAWeights(layer.down, layer.up), SCALE)
    assert_close(layer(x), torch.func.functional_call(layer.base, {"weight": half}, x))


@pytest.mark.parametrize("name", CASES)
def test_fresh_or_at_strength_zero_it_is_the_base_bit_for_bit(name: str) -> None:
    base = CASES[name].base.float().requires_grad_(False)
    x = torch.randn(CASES[name].x, generator=chance()).requires_grad_()
    down, up = factors(base, torch.float32)
    fresh = wrap(base, LoRAWeights(down, torch.zeros_like(up)), SCALE)
    assert torch.equal(fresh(x), base(x))
    off = wrap(base, LoRAWeights(down, up), SCALE, strength=0.0)
    assert torch.equal(off(x), base(x))
    off.strength = 1.0
    assert not torch.equal(off(x), base(x))


@pytest.mark.parametrize("name", ["linear", "1x1", "3x3"])
def test_input_and_base_get_no_gradient_unasked(name: str) -> None:
    layer, x = adapted(name)
    layer.base.requires_grad_(True)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.weight.grad is None
    assert layer.down.grad is not None
    assert layer.up.grad is not None


def saved_by(layer: LoRALayer, x: Tensor) -> list[tuple[int, ...]]:
    """Shapes of what one call keeps for the backward pass, frozen weights left out."""
    shapes = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != layer.weight.data_ptr():
            shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sorted(shapes)


def test_large_layers_keep_the_input_and_what_is_rank_wide() -> None:
    layer, x = adapted("linear")
    assert saved_by(layer, x.requires_grad_()) == sorted([(2, 3, 5), (6, 2), (2, 5), (4, 2)])
    layer, x = adapted("1x1")
    expected = [(2, 5, 3, 2), (2, 2, 6), (2, 5, 1, 1), (4, 2, 1, 1)]
    assert saved_by(layer, x.requires_grad_()) == sorted(expected)
    with torch.no_grad():
        assert saved_by(layer, x) == []


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["linear", "1x1"])
def test_gradient_checkpointing_changes_nothing(name: str, reentrant: bool) -> None:
    layer, x = adapted(name)
    x.requires_grad_()
    expected = torch.autograd.grad(layer(x).square().sum(), [x, layer.down, layer.up])
    y = checkpoint(layer, x, use_reentrant=reentrant)
    y.square().sum().backward()
    for found, wanted in zip(gradients(x, layer.down, layer.up), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["linear", "1x1", "3x3"])
def test_layout_of_input_and_gradient_do_not_matter(name: str) -> None:
    layer, x = adapted(name)
    turned = x.transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
    assert not turned.is_contiguous()
    x.requires_grad_()
    layer(x).sum().backward()  # an expanded gradient
    layer.zero_grad()
    y = layer(turned)
    y.backward(torch.ones_like(y).transpose(-1, -2).contiguous().transpose(-1, -2))
    assert_close(turned.grad, x.grad)


def test_channels_last() -> None:
    layer, x = adapted("1x1")
    last = x.contiguous(memory_format=torch.channels_last)
    assert_close(layer(last), layer(x))
    layer(last).square().sum().backward()
    found = gradients(layer.down, layer.up)
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert_close(found, gradients(layer.down, layer.up))


@pytest.mark.parametrize("name", ["linear", "1x1", "3x3"])
def test_half_precision_base_with_wider_factors(name: str) -> None:
    base = CASES[name].base.float().requires_grad_(False)
    x = torch.randn(CASES[name].x, generator=chance())
    exact = wrap(base, factors(base, torch.float32), SCALE)
    exact(x).square().sum().backward()
    expected = gradients(exact.down, exact.up)
    half = wrap(base.to(torch.bfloat16), factors(base, torch.float32), SCALE)
    y = half(x.to(torch.bfloat16))
    y.square().sum().backward()
    assert y.dtype == torch.bfloat16
    for found, wanted in zip(gradients(half.down, half.up), expected, strict=True):
        assert found.dtype == torch.float32
        assert_close(found, wanted, rtol=0.05, atol=0.05 * wanted.abs().max().item())


@pytest.mark.parametrize("name", ["linear", "1x1"])
def test_autocast_is_followed_as_the_base_does(name: str) -> None:
    base = CASES[name].base.float().requires_grad_(False)
    x = torch.randn(CASES[name].x, generator=chance()).requires_grad_()
    down, up = factors(base, torch.float32)
    fresh = wrap(base, LoRAWeights(down, torch.zeros_like(up)), SCALE)
    layer = wrap(base, LoRAWeights(down, up), SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fresh(x), base(x))
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(g.dtype == torch.float32 for g in gradients(layer.down, layer.up, x))


def test_no_rows() -> None:
    layer, x = adapted("linear")
    empty = x[:0].requires_grad_()
    layer(empty).sum().backward()
    assert gradients(empty)[0].shape == (0, 3, 5)
    assert not gradients(layer.up)[0].any()
