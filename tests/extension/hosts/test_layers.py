"""A host's network computes with the borrowed model's layers, and has its own afterwards."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lora_loop.core.adapters.lora import LoRAWeights, wrap
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import BaseConfig, MemoryConfig, NetworkConfig
from lora_loop.core.errors import ConfigError
from lora_loop.core.models.casting import cast_at_use
from lora_loop.core.session import AppliedNetwork, open_base
from lora_loop.extension.hosts.layers import Lent, lent_layers, require_shared
from lora_loop.tests.core.preview.conftest import updates_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base():
    return open_base(BaseConfig(checkpoint="embedded"), MemoryConfig(precision="fp32"), CPU)


@pytest.fixture
def hosts(base):
    """Networks of another make with the base's own tensors, as a host holds them."""
    parameters = [p for part in base.parts.values() for p in part.parameters()]
    return copy.deepcopy(tuple(base.parts.values()), {id(p): p for p in parameters})


def strong(base, **config) -> Network:
    settings = NetworkConfig(rank=2, alpha=2, **config)
    network = Network.create(find_targets(base.parts), settings, seed=1)
    with torch.no_grad():
        for number, factor in enumerate(network.named_parameters().values()):
            chance = torch.Generator().manual_seed(number)
            factor.copy_(0.1 * torch.randn(factor.shape, generator=chance))
    return network


def answers(networks) -> list[Tensor]:
    unet, text = networks
    chance = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 16, 16, generator=chance)
    with torch.inference_mode():  # as hosts draw
        context = text(torch.arange(77)[None]).last_hidden_state
        return [unet(latents, torch.tensor([500]), context, return_dict=False)[0], context]


@pytest.mark.parametrize("in_sums", [False, True])
@pytest.mark.parametrize("config", [{}, {"conv_rank": 2}])
def test_the_hosts_networks_answer_with_the_lora(base, hosts, in_sums, config) -> None:
    plain = answers(hosts)
    network = strong(base, **config)
    if in_sums:
        network = AppliedNetwork(updates_of(network))
    names = {name: type(module) for host in hosts for name, module in host.named_modules()}
    with network.attached(base.parts):
        wanted = answers(tuple(base.parts.values()))
        parameters = [dict(host.named_parameters()) for host in hosts]
        with lent_layers(base, hosts, "Host"):
            found = answers(hosts)
            for host, own in zip(hosts, parameters, strict=True):
                assert all(p is own[name] for name, p in host.named_parameters())
        for one, other, own in zip(found, wanted, plain, strict=True):
            assert_close(one, other, rtol=1e-5, atol=1e-5)
            assert (one - own).abs().max() > 1e-2
        with pytest.raises(RuntimeError, match="broken"), lent_layers(base, hosts, "Host"):
            raise RuntimeError("broken")
    assert names == {name: type(module) for host in hosts for name, module in host.named_modules()}
    for one, own in zip(answers(hosts), plain, strict=True):
        assert torch.equal(one, own)


def test_a_network_goes_on_training_after_the_hosts_picture(base, hosts) -> None:
    network = strong(base)
    with network.attached(base.parts), network.training():
        with lent_layers(base, hosts, "Host"):
            answers(hosts)
        latents = torch.randn(1, 4, 8, 8)
        context = torch.randn(1, 77, base.unet.config["cross_attention_dim"])
        output = base.unet(latents, torch.tensor([3]), context, return_dict=False)[0]
        network.backward(output.square().mean())
        gradients = [p.grad for p in network.named_parameters().values()]
    assert any(float(grad.abs().max()) > 0 for grad in gradients if grad is not None)


def test_what_the_host_holds_elsewhere_is_refused(base, hosts) -> None:
    elsewhere = copy.deepcopy(tuple(base.parts.values()))
    network = strong(base)
    with network.attached(base.parts):
        said = pytest.raises(ConfigError, match=r"Host holds \d+ of the layers .* leave it empty")
        with said, lent_layers(base, elsewhere, "Host"):
            raise AssertionError("not refused")
        require_shared(base, hosts, "Host")
        with pytest.raises(ConfigError, match="Host holds the model's layers elsewhere"):
            require_shared(base, elsewhere, "Host")
        assert not [m for host in elsewhere for m in host.modules() if isinstance(m, Lent)]


def test_a_lent_layer_stands_in_for_the_hosts() -> None:
    layer, own = nn.Linear(4, 4), nn.Linear(4, 4)
    lent = Lent(layer)
    assert not list(lent.parameters())
    standing_in = Lent(layer, own)
    assert dict(standing_in.named_parameters()) == dict(own.named_parameters())
    assert standing_in.weight is own.weight
    assert standing_in.in_features == 4
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = standing_in.nothing


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained_in", [torch.float32, torch.bfloat16])
def test_a_lent_layer_computes_in_the_hosts_dtype(
    kind, strength, given, stored, trained_in
) -> None:
    layer: nn.Module = nn.Linear(4, 4) if kind == "linear" else nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn((2, 4) if kind == "linear" else (2, 4, 5, 5), dtype=given)
    layer.to(stored)
    down = torch.randn(2, *layer.weight.shape[1:])
    up = torch.randn(4, 2, *(1 for _ in layer.weight.shape[2:]))
    exact = copy.deepcopy(layer).to(given)
    borrowed = nn.Sequential(layer)
    cast_at_use(borrowed, trained_in)
    adapted = wrap(borrowed[0], LoRAWeights(down, up), 1.0, strength)
    with torch.no_grad():
        exact.weight += (
            strength * (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])
        ).to(given)
    answer = Lent(adapted)(x)
    assert answer.dtype == given
    tolerance = 0 if strength == 0 else 1e-4 if given == torch.float32 else 0.2
    assert_close(answer, exact(x).detach(), rtol=tolerance, atol=tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = Lent(adapted)(x), exact(x)
    assert found.dtype == wanted.dtype
    assert_close(found, wanted.detach(), rtol=0.2, atol=0.2)


class Attention(nn.Module):
    """A text encoder's, over slices of what the host holds in one piece."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        weights = (*fused.in_proj_weight.chunk(3), fused.out_proj.weight)
        biases = (*fused.in_proj_bias.chunk(3), fused.out_proj.bias)
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj", "out_proj"), weights, biases, strict=True
        ):
            layer = nn.Linear(8, 8)
            layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
            layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
            setattr(self, name, layer)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("adapted", ["q_proj", "v_proj", "out_proj"])
def test_attention_that_the_host_computes_in_one_piece(batch_first, adapted) -> None:
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(8, 2, batch_first=batch_first).requires_grad_(False)
    host = nn.ModuleDict({"attn": fused})
    own = Attention(fused)
    x = torch.randn(5, 3, 8)
    mask = torch.full((5, 5) if not batch_first else (3, 3), float("-inf")).triu(1)
    plain = fused(x, x, x, need_weights=False, attn_mask=mask)[0]
    layer = getattr(own, adapted)
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    setattr(own, adapted, wrap(layer, LoRAWeights(down, up), 1.0))
    base = SimpleNamespace(parts={"text_encoder": nn.ModuleDict({"self_attn": own})})
    base.dtype = torch.float32
    with lent_layers(base, [host], "Host"):
        found = fused(x, x, x, need_weights=False, attn_mask=mask)[0]
    assert torch.equal(fused(x, x, x, need_weights=False, attn_mask=mask)[0], plain)
    merged = copy.deepcopy(fused)
    delta = up @ down
    if adapted == "out_proj":
        merged.out_proj.weight += delta
    else:
        start = 0 if adapted == "q_proj" else 16
        merged.in_proj_weight[start : start + 8] += delta
    wanted = merged(x, x, x, need_weights=False, attn_mask=mask)[0]
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - plain).abs().max() > 1e-2
