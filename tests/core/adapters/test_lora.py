"""Factors, their delta, and which layers can carry them."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lora_loop.core.adapters.lora import (
    AdapterWeights,
    LoRAConv,
    LoRALinear,
    LoRAWeights,
    init_lora,
    lora_delta,
    wrap,
)
from lora_loop.core.errors import ConfigError


def test_delta_by_hand() -> None:
    weights = LoRAWeights(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))
    assert_close(lora_delta(weights, 0.5), torch.tensor([[1.5, 3.0], [2.0, 4.0]]))


def test_delta_of_a_convolution_has_its_weights_shape() -> None:
    down = torch.arange(18.0).reshape(1, 2, 3, 3)
    up = torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1)
    delta = lora_delta(LoRAWeights(down, up), 2.0)
    assert delta.shape == (3, 2, 3, 3)
    assert delta[2, 1, 2, 2] == 2 * 100 * 17


def test_scale_is_alpha_over_rank() -> None:
    weights = AdapterWeights(torch.zeros(8, 3), torch.zeros(5, 8), alpha=4.0)
    assert (weights.rank, weights.scale) == (8, 0.5)


@pytest.mark.parametrize("base", [nn.Linear(50, 30), nn.Conv2d(50, 30, 1), nn.Conv2d(50, 3, 3)])
def test_fresh_factors(base: nn.Linear | nn.Conv2d) -> None:
    down, up = init_lora(base, 400, torch.Generator().manual_seed(4))
    bound = 1 / math.sqrt(base.weight[0].numel())
    assert not up.any()
    assert down.abs().max() <= bound
    assert_close(down.std().item(), bound / math.sqrt(3), rtol=0.02, atol=0.0)
    assert down.dtype == up.dtype == torch.float32
    layer = wrap(base, LoRAWeights(down, up), 1.0)  # the shapes fit
    assert isinstance(layer, LoRALinear if isinstance(base, nn.Linear) else LoRAConv)


def test_drawing_repeats_and_leaves_the_process_alone() -> None:
    first, second = (
        init_lora(nn.Linear(4, 4), 2, torch.Generator().manual_seed(seed)) for seed in (0, 0)
    )
    assert torch.equal(first.down_RI, second.down_RI)
    base = nn.Linear(4, 4)
    before = torch.get_rng_state()
    init_lora(base, 2, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_shows_its_bases_weight_and_shares_the_factors() -> None:
    base = nn.Linear(3, 2).half()
    down, up = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(2, 1))
    layer = wrap(base.eval(), LoRAWeights(down, up), 1.0)
    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert layer.down is down
    assert layer.up is up
    assert not layer.training


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 4), (2, 2)),
        ((2, 3), (3, 2)),
        ((2, 3), (2, 1)),
        ((0, 3), (2, 0)),
        ((2, 3, 1, 1), (2, 2)),
    ],
)
def test_factors_that_do_not_fit(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"do not fit a layer whose weight is \(2, 3\)"):
        wrap(nn.Linear(3, 2), LoRAWeights(torch.zeros(down), torch.zeros(up)), 1.0)


@pytest.mark.parametrize(
    "base",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.LayerNorm(4),
    ],
)
def test_layers_that_cannot_be_adapted(base: nn.Module) -> None:
    with pytest.raises(ConfigError, match="Load the base model without quantisation"):
        init_lora(base, 2, torch.Generator())
