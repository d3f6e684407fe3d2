"""The network on a base model: attaching, strengths, baking, and leaving nothing behind."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.blocks import ORDERS, block_of
from lora_loop.core.adapters.lora import LoRAConv, lora_delta
from lora_loop.core.adapters.network import Network, Strength
from lora_loop.core.adapters.targets import find_targets, is_between_transformers
from lora_loop.core.config import NetworkConfig
from lora_loop.core.errors import ConfigError

MakeNetwork = Callable[[int], Network]


def answer(unet: nn.Module, text_encoder: nn.Module) -> Tensor:
    """What the base model says to a fixed question, through both of its parts."""
    with torch.no_grad():
        context = text_encoder(torch.arange(7)[None]).last_hidden_state
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return unet(latents, torch.tensor([9]), context, return_dict=False)[0]


def picture(*models: nn.Module) -> list[tuple[object, ...]]:
    """All that a host could see of its modules."""
    seen: list[tuple[object, ...]] = []
    for model in models:
        for name, module in model.named_modules():
            parameters = [id(p) for p in module.parameters(recurse=False)]
            seen.append((name, id(module), module.training, parameters))
        seen += [(name, p.requires_grad, p._version) for name, p in model.named_parameters()]
    return seen


@contextmanager
def merged(network: Network, strength: Strength, *models: nn.Module) -> Iterator[None]:
    """The same change by adding deltas to the weights, and taking them off again."""
    targets = find_targets(dict(zip(("unet", "text_encoder"), models, strict=True)))
    before = {path: targets[path].weight.clone() for path in network.paths}
    with torch.no_grad():
        for path, adapter in network.weights().items():
            delta = lora_delta(adapter.lora, adapter.scale * strength.of(path))
            targets[path].weight.add_(delta)
        try:
            yield
        finally:
            for path, weight in before.items():
                targets[path].weight.copy_(weight)


def test_a_fresh_network_changes_nothing(unet: nn.Module, text_encoder: nn.Module) -> None:
    network = Network.create(
        find_targets({"unet": unet, "text_encoder": text_encoder}), NetworkConfig(rank=2), seed=1
    )
    before = answer(unet, text_encoder)
    with network.attached({"unet": unet, "text_encoder": text_encoder}):
        assert torch.equal(answer(unet, text_encoder), before)


def test_what_is_drawn_depends_on_seed_and_path_alone(
    unet: nn.Module, text_encoder: nn.Module
) -> None:
    both = Network.create(
        find_targets({"unet": unet, "text_encoder": text_encoder}), NetworkConfig(rank=2), seed=1
    )
    one = Network.create(
        find_targets({"text_encoder": text_encoder}), NetworkConfig(rank=2), seed=1
    )
    other = Network.create(
        find_targets({"text_encoder": text_encoder}), NetworkConfig(rank=2), seed=2
    )
    for name, parameter in one.named_parameters().items():
        assert torch.equal(parameter, both.named_parameters()[name])
        assert name.endswith("up") or not torch.equal(parameter, other.named_parameters()[name])


def test_parts_and_counts(unet: nn.Module, text_encoder: nn.Module) -> None:
    targets = find_targets({"unet": unet, "text_encoder": text_encoder})
    both = Network.create(targets, NetworkConfig(rank=2), seed=1)
    flat = both.flat_parameters()
    assert {part: len(tensors) for part, tensors in flat.items()} == {"unet": 1, "text_encoder": 1}
    assert len(both.named_parameters()) == 384 + 24
    assert both.count_parameters() == sum(t.numel() for (t,) in flat.values())
    adapted = [t for path, t in targets.items() if not is_between_transformers(path)]
    assert both.count_parameters() == 2 * sum(sum(t.weight.shape[:2]) for t in adapted)
    assert both.blocks() == ORDERS[17]
    only = Network.create(targets, NetworkConfig(rank=2, text_encoder=False), seed=1)
    assert list(only.flat_parameters()) == ["unet"]
    assert only.blocks() == ORDERS[17][1:]
    with pytest.raises(ConfigError, match="no adapter"):
        Network.create({}, NetworkConfig(), seed=1)


def test_convolutions_have_their_own_rank(unet: nn.Module, text_encoder: nn.Module) -> None:
    targets = find_targets({"unet": unet, "text_encoder": text_encoder})
    config = NetworkConfig(rank=2, alpha=1.0, conv_rank=3, conv_alpha=6.0)
    network = Network.create(targets, config, seed=1)
    assert set(network.paths) == set(targets)
    assert network.blocks() == ORDERS[26][:1] + ORDERS[26][2:]  # all but IN00, which is conv_in
    sizes = Counter(
        (adapter.rank, adapter.scale, tuple(adapter.down_RI.shape[2:]))
        for path, adapter in network.weights().items()
        if is_between_transformers(path)
    )
    # 22 projections of the time; a shortcut wherever widths differ, and one for each way up
    assert sizes == {(3, 2.0, (3, 3)): 50, (2, 0.5, ()): 22, (2, 0.5, (1, 1)): 12 + 1}
    equal = Network.create(targets, NetworkConfig(rank=2, conv_rank=3), seed=1)
    path = "unet.mid_block.resnets.0.conv1"
    assert equal.weights()[path].scale == 1.0
    plain = Network.create(targets, NetworkConfig(rank=2), seed=1)
    assert set(plain.paths) == {path for path in targets if not is_between_transformers(path)}


@pytest.mark.parametrize("conv_rank", [0, 2])
def test_it_answers_as_the_merged_weights_do(
    unet: nn.Module, text_encoder: nn.Module, make_network: MakeNetwork, conv_rank: int
) -> None:
    network, before = make_network(conv_rank), answer(unet, text_encoder)
    for strength in (
        Strength(),
        Strength(unet=0.5, text_encoder=-0.25),
        Strength(unet=0.8, block_weights=BlockWeights.parse("IN04-M00=0.5, OUT07=2, BASE=1")),
    ):
        with network.attached({"unet": unet, "text_encoder": text_encoder}):
            network.set_strength(strength.unet, strength.text_encoder, strength.block_weights)
            live = answer(unet, text_encoder)
        with merged(network, strength, unet, text_encoder):
            assert_close(live, answer(unet, text_encoder), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(live, before, atol=1e-3)


def test_none_is_the_base_bit_for_bit_and_all_the_plain_network(
    unet: nn.Module, text_encoder: nn.Module, network: Network
) -> None:
    before = answer(unet, text_encoder)
    with network.attached({"unet": unet, "text_encoder": text_encoder}):
        plain = answer(unet, text_encoder)
        with network.with_block_weights(BlockWeights.parse("NONE")):
            assert torch.equal(answer(unet, text_encoder), before)
        with network.with_block_weights(BlockWeights.parse("ALL")):
            assert torch.equal(answer(unet, text_encoder), plain)
        with network.with_block_weights(None, unet=0.0, text_encoder=0.0):
            assert torch.equal(answer(unet, text_encoder), before)
        assert torch.equal(answer(unet, text_encoder), plain)


def test_strength_of_a_layer_is_its_parts_times_its_blocks() -> None:
    weights = BlockWeights.parse("BASE=0.5, IN04=3")
    strength = Strength(unet=0.2, text_encoder=10.0, block_weights=weights)
    assert strength.of("text_encoder.text_model.encoder.layers.0.mlp.fc1") == 5.0
    assert strength.of("unet.down_blocks.1.attentions.0.proj_in") == pytest.approx(0.6)
    assert strength.of("unet.mid_block.attentions.0.proj_in") == 0.0
    assert strength.of("unet.time_embedding.linear_1") == 0.2  # in no block


def test_former_strengths_come_back_after_an_error(network: Network) -> None:
    network.set_strength(0.3)
    with pytest.raises(ZeroDivisionError), network.with_block_weights(BlockWeights.parse("NONE")):
        assert network.strength.block_weights is not None
        raise ZeroDivisionError
    assert network.strength == Strength(unet=0.3)


def test_nothing_is_left_behind(unet: nn.Module, text_encoder: nn.Module, network: Network) -> None:
    before, said = picture(unet, text_encoder), answer(unet, text_encoder)
    with (
        pytest.raises(ZeroDivisionError),
        network.attached({"unet": unet, "text_encoder": text_encoder}),
    ):
        assert picture(unet, text_encoder) != before
        raise ZeroDivisionError
    assert picture(unet, text_encoder) == before
    other = Network.create(find_targets({"unet": unet}), NetworkConfig(rank=1), seed=9)
    with other.attached({"unet": unet, "text_encoder": text_encoder}):
        loss = unet(torch.ones(1, 4, 8, 8), 1, torch.ones(1, 7, 8), return_dict=False)[0].sum()
        loss.backward()
    assert picture(unet, text_encoder) == before
    assert all(p.grad is None for m in (unet, text_encoder) for p in m.parameters())
    assert torch.equal(answer(unet, text_encoder), said)
    network.detach()  # without effect


def test_attaching_twice_is_refused(
    unet: nn.Module, text_encoder: nn.Module, network: Network
) -> None:
    other = Network.create(find_targets({"unet": unet}), NetworkConfig(rank=1), seed=9)
    with network.attached({"unet": unet, "text_encoder": text_encoder}):
        held = picture(unet, text_encoder)
        with pytest.raises(ConfigError, match="attached already"):
            network.attach({"unet": unet, "text_encoder": text_encoder})
        with pytest.raises(ConfigError, match="carries an adapter already"):
            other.attach({"unet": unet, "text_encoder": text_encoder})
        assert picture(unet, text_encoder) == held


def test_only_one_part_may_be_attached(
    unet: nn.Module, text_encoder: nn.Module, network: Network
) -> None:
    before = picture(text_encoder)
    with network.attached({"unet": unet}):
        assert picture(text_encoder) == before
        assert isinstance(unet.get_submodule("down_blocks.0.attentions.0.proj_in"), LoRAConv)


def test_another_base_model_is_refused_untouched(unet: nn.Module, text_encoder: nn.Module) -> None:
    targets = dict(find_targets({"unet": unet, "text_encoder": text_encoder}))
    path = next(iter(targets))
    wide = nn.Conv2d(5, 5, 1)
    network = Network.create({**targets, path: wide}, NetworkConfig(rank=1), seed=0)
    before = picture(unet, text_encoder)
    with pytest.raises(ConfigError, match="made for another base model") as caught:
        network.attach({"unet": unet, "text_encoder": text_encoder})
    assert path in str(caught.value)
    stranger = Network.create({"unet.nowhere": wide}, NetworkConfig(rank=1), seed=0)
    with pytest.raises(ConfigError, match=r"1 adapted layers are not in this base.*unet\.nowhere"):
        stranger.attach({"unet": unet, "text_encoder": text_encoder})
    assert picture(unet, text_encoder) == before


def test_weights_go_round(unet: nn.Module, text_encoder: nn.Module, network: Network) -> None:
    half = {path: a._replace(down_RI=a.down_RI.half()) for path, a in network.weights().items()}
    again = Network.from_weights(find_targets({"unet": unet, "text_encoder": text_encoder}), half)
    assert again.paths == network.paths
    for path, weights in again.weights().items():
        assert weights.down_RI.dtype == torch.float32
        assert torch.equal(weights.down_RI, half[path].down_RI.float())
        assert torch.equal(weights.up_OR, half[path].up_OR)
        assert weights.up_OR.data_ptr() != half[path].up_OR.data_ptr()
        assert weights.alpha == 1.5


def test_parameters_are_loaded_whole_or_not_at_all(
    unet: nn.Module, text_encoder: nn.Module, network: Network
) -> None:
    other = Network.create(
        find_targets({"unet": unet, "text_encoder": text_encoder}),
        NetworkConfig(rank=3, alpha=1.5),
        seed=7,
    )
    name = list(other.named_parameters())[5]
    kept = {key: p.detach().clone() for key, p in other.named_parameters().items()}
    given = {key: p.detach() for key, p in network.named_parameters().items()}
    for wrong in (
        {key: tensor for key, tensor in given.items() if key != name},
        {**given, "unet.nowhere.down": torch.zeros(1)},
        {**given, name: torch.zeros(3, 3)},
    ):
        with pytest.raises(ConfigError):
            other.load_parameters(wrong)
        assert all(torch.equal(p, kept[key]) for key, p in other.named_parameters().items())
    other.load_parameters(given)
    assert all(torch.equal(p, given[key]) for key, p in other.named_parameters().items())


def test_baked_weights_do_at_strength_one_what_the_live_ones_do(
    unet: nn.Module, text_encoder: nn.Module, network: Network
) -> None:
    block_weights = BlockWeights.parse("NOFACE")
    with (
        network.attached({"unet": unet, "text_encoder": text_encoder}),
        network.with_block_weights(block_weights, unet=0.7),
    ):
        live = answer(unet, text_encoder)
    before = {name: p.detach().clone() for name, p in network.named_parameters().items()}
    baked = network.bake(block_weights, unet=0.7)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters().items())
    dropped = {block_of(path) for path in network.paths} - {block_of(path) for path in baked}
    assert dropped == {"OUT03", "OUT04", "OUT05"}
    again = Network.from_weights(find_targets({"unet": unet, "text_encoder": text_encoder}), baked)
    with again.attached({"unet": unet, "text_encoder": text_encoder}):
        assert_close(answer(unet, text_encoder), live, rtol=1e-4, atol=1e-5)


def test_baking_nothing_is_refused(network: Network) -> None:
    with pytest.raises(ConfigError, match=r"nothing is left to bake: NONE .*BASE, IN01"):
        network.bake(BlockWeights.parse("NONE"))
    with pytest.raises(ConfigError, match="strength 0"):
        network.bake(None, unet=0.0, text_encoder=0.0)


def test_only_chosen_blocks_are_trained(unet, text_encoder) -> None:
    targets = find_targets({"unet": unet, "text_encoder": text_encoder})
    network = Network.create(targets, NetworkConfig(rank=2, blocks="OUT03-OUT05"), seed=1)
    assert network.blocks() == ("OUT03", "OUT04", "OUT05")
    assert Network.create(targets, NetworkConfig(rank=2, blocks="BASE"), seed=1).blocks() == (
        "BASE",
    )
    for blocks, words in (("OUT3", "network.blocks is 'OUT3'"), ("IN00", "none of the layers")):
        with pytest.raises(ConfigError, match=words):
            Network.create(targets, NetworkConfig(rank=2, blocks=blocks), seed=1)
