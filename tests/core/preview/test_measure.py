"""Measuring blocks without pictures: norms by hand, a planted block found, all put back."""

import math
from unittest import mock

import pytest
import torch

from lora_loop.core.adapters.applied import AppliedNetwork
from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.blocks import block_of
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.lora import AdapterWeights, lora_delta, weight_of
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import Event, PhaseProgress, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.bars import measures_chart
from lora_loop.core.preview.measure import (
    Clean,
    MeasureRequest,
    Measures,
    delta_norm,
    measure_blocks,
)

FEW = MeasureRequest(samples=2)


def scaled(base: BaseModel, network: Network, factors: dict[str, float], other: float) -> Network:
    """The network with each block's update multiplied."""
    return Network.from_weights(
        find_targets(base.parts),
        {
            path: AdapterWeights(
                own.down_RI, own.up_OR * factors.get(block_of(path) or "", other), own.alpha
            )
            for path, own in network.weights().items()
        },
    )


def by_block(measures: Measures | None):
    assert measures is not None
    return {found.block: found for found in measures.blocks}


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_norm_is_that_of_the_delta(kernel: tuple[int, ...]) -> None:
    chance = torch.Generator().manual_seed(1)
    ones = tuple(1 for _ in kernel)
    down = torch.randn(3, 5, *kernel, generator=chance)
    up = torch.randn(7, 3, *ones, generator=chance)
    weights = AdapterWeights(down, up, 1.5)
    expected = float(lora_delta(weights.lora, weights.scale).norm())
    assert delta_norm(weights) == pytest.approx(expected, rel=1e-5)
    assert delta_norm(AdapterWeights(torch.ones(1, 4), torch.ones(2, 1), 1.0)) == math.sqrt(8)


def test_weights_are_measured_beside_the_base(base: BaseModel, network: Network) -> None:
    found = by_block(measure_blocks(base, network, FEW))
    assert tuple(found) == network.blocks()
    assert sum(one.weight_share for one in found.values()) == pytest.approx(1)
    targets, weights = find_targets(base.parts), network.weights()
    mine = [path for path in weights if block_of(path) == "M00"]
    deltas = [lora_delta(weights[path].lora, weights[path].scale) for path in mine]
    norm = math.sqrt(sum(float(delta.square().sum()) for delta in deltas))
    own = math.sqrt(sum(float(weight_of(targets[path]).square().sum()) for path in mine))
    assert found["M00"].layers == len(mine)
    assert found["M00"].norm == pytest.approx(norm, rel=1e-4)
    assert found["M00"].relative == pytest.approx(norm / own, rel=1e-4)


@pytest.mark.parametrize("planted", [("OUT03", "OUT04"), ("BASE",), ("M00",)])
def test_the_blocks_that_do_it_are_ranked_first(
    base: BaseModel, network: Network, planted: tuple[str, ...]
) -> None:
    own = scaled(base, network, dict.fromkeys(planted, 0.3), other=0.001)
    measures = measure_blocks(base, own, MeasureRequest(samples=4, prompts=("a cat", "a dog")))
    assert measures is not None
    assert {found.block for found in measures.ranked()[: len(planted)]} == set(planted)


def test_of_a_single_block_all_is_its_own(base: BaseModel, network: Network) -> None:
    found = by_block(measure_blocks(base, scaled(base, network, {"M00": 1.0}, other=0.0), FEW))
    assert found["M00"].alone == found["M00"].without == pytest.approx(1)
    assert found["M00"].share == pytest.approx(1)
    assert all(one.share == one.alone == 0 for name, one in found.items() if name != "M00")


def test_a_network_from_a_file_of_any_algorithm_is_measured_alike(
    base: BaseModel, network: Network
) -> None:
    updates = {
        path: Update(
            {
                "lora_down.weight": own.down_RI,
                "lora_up.weight": own.up_OR,
                "alpha": torch.tensor(own.alpha),
            }
        )
        for path, own in network.weights().items()
    }
    applied = by_block(measure_blocks(base, AppliedNetwork(updates), FEW))
    for block, found in by_block(measure_blocks(base, network, FEW)).items():
        for part in ("layers", "norm", "relative", "weight_share", "share", "alone", "without"):
            own, other = getattr(found, part), getattr(applied[block], part)
            assert other == pytest.approx(own, rel=1e-2, abs=1e-3), (block, part)


def test_small_changes_add_up(base: BaseModel, network: Network) -> None:
    own = scaled(base, network, {}, other=0.003)
    found = by_block(measure_blocks(base, own, MeasureRequest(samples=4)))
    assert sum(one.share for one in found.values()) == pytest.approx(1, abs=0.05)


def test_pictures_and_their_captions_are_measured_on(base: BaseModel, network: Network) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    clean = Clean(latents, ["a cat", "a dog"])
    with mock.patch.object(base, "encode_text", wraps=base.encode_text) as encode:
        first = measure_blocks(base, network, FEW, clean)
    captions = [call.args[0][0] for call in encode.call_args_list]
    assert captions == ["a cat", "a dog"] * 2  # with BASE on and off, once each
    assert measure_blocks(base, network, FEW, clean) == first
    assert measure_blocks(base, network, FEW) != first


def test_the_network_is_left_as_it_was(base: BaseModel, network: Network) -> None:
    measure_blocks(base, network, FEW)
    find_targets(base.parts)  # refuses a base that carries adapters
    with network.attached(base.parts):
        network.set_strength(0.5, 0.25, BlockWeights.parse("OUTS"))
        before = network.strength
        measures = measure_blocks(base, network, FEW)
        assert network.strength == before
        with pytest.raises(ConfigError, match="attached"):
            network.attach(base.parts)
    assert measures == measure_blocks(base, network, FEW)


def test_progress_and_stop(base: BaseModel, network: Network) -> None:
    events: list[Event] = []
    measures = measure_blocks(base, network, FEW, on_event=events.append)
    assert measures is not None
    assert events[0] == PhaseStarted(name="analysis", total=measures.passes)
    assert measures.passes == 2 * len(network.blocks()) + 2
    done = [event.done for event in events if isinstance(event, PhaseProgress)]
    assert done == sorted(done)
    assert done[-1] == measures.passes
    assert measure_blocks(base, network, FEW, stop=lambda: True) is None


def test_a_network_without_effect_is_measured_as_such(base: BaseModel, network: Network) -> None:
    found = by_block(measure_blocks(base, scaled(base, network, {}, other=0.0), FEW))
    assert all(
        one.share == one.norm == one.relative == one.weight_share == 0 for one in found.values()
    )


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples is 0"):
        MeasureRequest(samples=0)
    with pytest.raises(ConfigError, match="prompts"):
        MeasureRequest(prompts=())


def test_the_chart_has_a_bar_for_every_block(base: BaseModel, network: Network) -> None:
    measures = measure_blocks(base, network, FEW)
    assert measures is not None
    english, chinese = (measures_chart(measures, "猫", language) for language in ("en", "zh"))
    assert english.size == chinese.size
    assert english.height > 20 * len(network.blocks())
    assert english.tobytes() != chinese.tobytes()
