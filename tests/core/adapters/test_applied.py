"""Networks of every algorithm on a live base model."""

import copy

import pytest
import torch
from torch import nn

from lora_loop.core.adapters import applied
from lora_loop.core.adapters.applied import AppliedNetwork, AppliedStack
from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.blocks import BASE, block_of
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.strength import Strength, Window
from lora_loop.core.adapters.targets import find_layers
from lora_loop.core.errors import ConfigError

ALGORITHMS = (
    *("lora", "locon of Tucker", "loha", "lokr", "dora on outputs", "dora on inputs"),
    *("ia3", "full", "glora", "oft", "boft"),
)


@pytest.fixture(scope="module")
def parts(unet, text_encoder) -> dict[str, nn.Module]:
    return {"unet": unet, "text_encoder": text_encoder}


def some_layers(parts) -> dict[str, nn.Module]:
    """Layers of every kind, in several blocks."""
    ends = ("attn1.to_q", "ff.net.2", "conv1", "conv_shortcut", "proj_in", "q_proj", "norm1")
    return {path: layer for path, layer in find_layers(parts).items() if path.endswith(ends)}


def delta_of(network: AppliedNetwork, path: str, weight: torch.Tensor) -> torch.Tensor:
    delta = network.updates[path].delta(weight)
    assert delta is not None
    return delta


def weights_of(parts) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": parameter.detach().clone()
        for part, network in parts.items()
        for name, parameter in network.named_parameters()
    }


@torch.no_grad()
def answer(parts) -> torch.Tensor:
    chance = torch.Generator().manual_seed(1)
    words = parts["text_encoder"](torch.arange(6)[None]).last_hidden_state
    latents = torch.randn(1, 4, 8, 8, generator=chance)
    return parts["unet"](latents, torch.tensor([500]), words).sample


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_live_is_merged(parts, random_updates, algorithm) -> None:
    layers = some_layers(parts)
    updates = random_updates(algorithm, layers, 0.3)
    network = AppliedNetwork(updates)
    chosen = Strength(
        unet=0.8, text_encoder=0.5, block_weights=BlockWeights.parse("ALL=1, OUT03=0, M00=-0.5")
    )
    merged = copy.deepcopy(parts)
    for path, layer in find_layers(merged).items():
        if path in updates:
            part = 0.5 if block_of(path) == BASE else 0.8
            ratio = {"OUT03": 0.0, "M00": -0.5}.get(block_of(path), 1.0)
            delta = updates[path].delta(layer.weight.detach())
            layer.weight.data += part * ratio * delta
            bias = updates[path].bias_delta()
            if bias is not None:
                layer.bias.data += part * ratio * bias
    plain, before = answer(parts), weights_of(parts)
    with network.attached(parts):
        network.use(chosen)
        live = answer(parts)
    assert float((live - plain).abs().max()) > 1e-3
    torch.testing.assert_close(live, answer(merged), atol=2e-5, rtol=1e-4)
    assert torch.equal(answer(parts), plain)
    assert all(torch.equal(now, before[name]) for name, now in weights_of(parts).items())


def test_the_bases_own_parameters_come_back(parts, random_updates) -> None:
    own = {id(p) for part in parts.values() for p in part.parameters()}
    network = AppliedNetwork(random_updates("loha", some_layers(parts), 0.3))
    with network.attached(parts):
        assert network.is_attached_to(parts)
        layer = next(iter(some_layers(parts).values()))
        live = layer.weight
        assert id(live) not in own
        network.set_strength(unet=0, text_encoder=0)
        assert {id(p) for part in parts.values() for p in part.parameters()} == own
        network.set_strength()
        assert layer.weight is live
    assert {id(p) for part in parts.values() for p in part.parameters()} == own
    assert not network.is_attached_to(parts)


@pytest.mark.parametrize("kept", [0, applied.KEPT_NUMBERS])
def test_only_what_changes_is_computed(parts, random_updates, monkeypatch, kept) -> None:
    network = AppliedNetwork(random_updates("lokr", some_layers(parts), 0.3))
    computed = []
    delta = Update.delta
    monkeypatch.setattr(applied, "KEPT_NUMBERS", kept)
    monkeypatch.setattr(Update, "delta", lambda self, w: computed.append(1) or delta(self, w))
    with network.attached(parts):
        computed.clear()
        network.set_strength(block_weights=BlockWeights.parse("ALL=1, M00=0.5"))
        inside = [path for path in network.paths if block_of(path) == "M00"]
        assert len(computed) == (0 if kept else len(inside))
        network.set_strength(block_weights=BlockWeights.parse("ALL=1, M00=0.5"))
        assert len(computed) == (0 if kept else len(inside))


def test_several_at_once_add_up_each_with_its_own_strengths(parts, random_updates) -> None:
    layers = some_layers(parts)
    one = AppliedNetwork(random_updates("lora", layers, 0.3, seed=1))
    two = AppliedNetwork(random_updates("full", dict(list(layers.items())[:4]), 0.3, seed=2))
    path = next(iter(layers))
    own = layers[path].weight.detach().clone()
    with AppliedStack([one, two]).attached(parts):
        one.set_strength(unet=0.5, text_encoder=0.5)
        two.set_strength(unet=-2, text_encoder=-2)
        expected = own + 0.5 * delta_of(one, path, own) - 2 * delta_of(two, path, own)
        torch.testing.assert_close(layers[path].weight.detach(), expected)
        one.set_strength(unet=0, text_encoder=0)
        expected = own - 2 * delta_of(two, path, own)
        torch.testing.assert_close(layers[path].weight.detach(), expected)
        with pytest.raises(ConfigError, match="attached already"):
            two.attach(parts)
        with pytest.raises(ConfigError, match="as one stack"):
            AppliedNetwork(one.updates).attach(parts)
        assert one.is_attached_to(parts)
    assert torch.equal(layers[path].weight, own)


@pytest.mark.parametrize("count", [1, 2])
def test_a_window_of_steps(parts, random_updates, count) -> None:
    layers = some_layers(parts)
    network = AppliedNetwork(random_updates("lora", layers, 0.3))
    others = [AppliedNetwork(random_updates("lora", layers, 0.1, 5))] * (count - 1)
    path = next(path for path in layers if path.startswith("unet."))
    text = next(path for path in layers if path.startswith("text_encoder."))
    with AppliedStack([network, *others]).attached(parts):
        whole = layers[path].weight.detach().clone()
        of_text = layers[text].weight.detach().clone()
        network.set_strength(unet=0, text_encoder=1)
        without = layers[path].weight.detach().clone()
        network.use(Strength(window=Window(2, 4)))
        seen = []
        for step in (0, 1, 2, 3, 4, 5, 0):
            network.at_step(step)
            seen.append(torch.equal(layers[path].weight, whole))
            assert seen[-1] or torch.equal(layers[path].weight, without)
            assert torch.equal(layers[text].weight, of_text)
        assert seen == [True, False, True, True, False, False, True]


def test_what_does_not_fit_leaves_the_base_alone(parts, random_updates) -> None:
    own = {id(p) for part in parts.values() for p in part.parameters()}
    layers = some_layers(parts)
    updates = random_updates("lora", layers, 0.3)
    paths = list(updates)
    wrong = {**updates, paths[-1]: Update({"diff": torch.zeros(3, 3)})}
    for bad, words in (
        (wrong, "do not fit"),
        ({**updates, "unet.elsewhere": updates[paths[0]]}, "unet.elsewhere"),
    ):
        network = AppliedNetwork(bad)
        with pytest.raises(ConfigError, match=words):
            network.attach(parts)
        assert {id(p) for part in parts.values() for p in part.parameters()} == own
        with AppliedNetwork(updates).attached(parts):  # nothing is left of the first
            assert {id(p) for part in parts.values() for p in part.parameters()} != own


def test_tensors_made_under_inference_mode_are_adapted(parts, random_updates) -> None:
    layers = some_layers(parts)
    network = AppliedNetwork(random_updates("lora", layers, 0.3))
    path = next(iter(layers))
    with torch.inference_mode():
        network.attach(parts)
        network.set_strength(unet=0.5, text_encoder=0.5)
    network.set_strength(unet=0.25, text_encoder=0.25)  # outside of it they can still be written
    own = layers[path].weight.detach().clone()
    network.detach()
    base = layers[path].get_parameter("weight").detach()
    torch.testing.assert_close(own, base + 0.25 * delta_of(network, path, base))


def test_a_stack_that_is_attached_twice_says_so_and_acts_on(parts, random_updates) -> None:
    layers = some_layers(parts)
    stack = AppliedStack([AppliedNetwork(random_updates("lora", layers, 0.3, s)) for s in (1, 2)])
    before = answer(parts)
    with stack.attached(parts):
        acting = answer(parts)
        with pytest.raises(ConfigError, match="attached already"):
            stack.attach(parts)
        assert torch.equal(answer(parts), acting)
        with stack.networks[0].suspended(parts):
            assert torch.equal(answer(parts), before)
        assert torch.equal(answer(parts), acting)
    assert torch.equal(answer(parts), before)


def test_strengths_that_fail_are_put_back(parts, random_updates, monkeypatch) -> None:
    network = AppliedNetwork(random_updates("lora", some_layers(parts), 0.3))
    former, failed = network.strength, []

    def show(_: Strength) -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError("no memory")

    monkeypatch.setattr(network, "_show", show)
    with pytest.raises(RuntimeError), network.using(Strength(unet=0)):
        raise AssertionError("it was set")
    assert network.strength is former
