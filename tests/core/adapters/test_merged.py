"""Small layers merged by the batch: equal to the plain way in output and in every gradient."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lora_loop.core.adapters import merged
from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.factors import FlatFactors
from lora_loop.core.adapters.lora import LoRALayer, LoRAWeights, project
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import NetworkConfig
from lora_loop.core.models.unet_blocks import plain_attention, set_attention, use_lean_modules
from lora_loop.core.train.placement import gradient_checkpointing


def loss_of(unet: nn.Module, context: Tensor) -> Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = latents.to(context.dtype)
    output = unet(latents, torch.tensor([9, 500]), context, return_dict=False)[0]
    return output.float().square().mean()


@pytest.fixture
def context() -> Tensor:
    return torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))


def gradients(network: Network) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters().items()
    }


def by_autograd(network: Network, unet: nn.Module, context: Tensor) -> dict[str, Tensor]:
    """The plain way: outside of a training block every layer computes its own update."""
    with network.attached({"unet": unet}):
        loss_of(unet, context).backward()
    found = gradients(network)
    for parameter in network.named_parameters().values():
        parameter.grad = None
    return found


def rounding(gradients: dict[str, Tensor]) -> float:
    """What is no more than rounding, beside the largest of all numbers."""
    return 1e-6 * max(float(g.abs().max()) for g in gradients.values())


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], floor: float = 0.0) -> None:
    """Equal within a thousandth of each factor's own largest number, or `floor`, or rounding."""
    assert list(found) == list(wanted)
    floor = max(floor, rounding(wanted))
    for name, gradient in found.items():
        largest = float(wanted[name].abs().max())
        assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-3 * largest + floor, msg=name)


@pytest.fixture(params=["diffusers' blocks", "our blocks"])
def unet(request, unet) -> nn.Module:
    """A U-Net of diffusers' modules, and as the reader of checkpoints sets it up."""
    if request.param == "diffusers' blocks":
        return unet
    own = deepcopy(unet)
    use_lean_modules(own)
    set_attention(own, plain_attention)
    return own


def test_gradients_equal_those_of_the_plain_way(network, unet, context) -> None:
    wanted = by_autograd(network, unet, context)
    # one position at the deepest level has nothing to weigh: all its q and k get is rounding
    learns = [float(g.abs().max()) > rounding(wanted) for g in wanted.values()]
    assert sum(learns) == 384 - 4
    with network.attached({"unet": unet}), network.training():
        assert any(layer.place for layer in unet.modules() if isinstance(layer, LoRALayer))
        network.backward(loss_of(unet, context))
        close(gradients(network), wanted)
        network.backward(loss_of(unet, context))  # gradients of micro-batches add up
        close(gradients(network), {k: 2 * g for k, g in wanted.items()})
        network.after_step()
        assert not any(g.any() for g in gradients(network).values())
        with gradient_checkpointing([unet], True):
            network.backward(loss_of(unet, context))
        close(gradients(network), wanted)
    assert all(p.grad is None for p in network.named_parameters().values())


def has_fused_optimizers() -> bool:
    """Whether this torch has them on the CPU: since 2.4."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    try:
        torch.optim.SGD([parameter], lr=1, fused=True).step()
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True


FUSED = pytest.param(
    True, marks=pytest.mark.skipif(not has_fused_optimizers(), reason="torch before 2.4")
)


@pytest.mark.parametrize("fused", [False, FUSED])
def test_an_optimizer_of_flat_parameters_moves_every_factor(network, unet, context, fused) -> None:
    before = {name: p.detach().clone() for name, p in network.named_parameters().items()}
    wanted = by_autograd(network, unet, context)
    with network.attached({"unet": unet}), network.training():
        flat = [p for own in network.flat_parameters().values() for p in own]
        optimizer = torch.optim.SGD(flat, lr=100, **({"fused": True} if fused else {}))
        with torch.no_grad():
            first = float(loss_of(unet, context))
        network.backward(loss_of(unet, context))
        optimizer.step()
        network.after_step()
        with torch.no_grad():
            assert float(loss_of(unet, context)) != first  # the merged weights follow
        after = network.named_parameters()
        moves = {name: (after[name].detach() - value) for name, value in before.items()}
    expected = {name: -100 * gradient for name, gradient in wanted.items()}
    rounding = 1e-6  # of a factor of 1 to which a small move is added
    assert sum(float(m.abs().max()) > 10 * rounding for m in expected.values()) > 350
    close(moves, expected, rounding)


def test_loading_factors_and_strengths_reach_the_merged_weights(network, unet, context) -> None:
    with network.attached({"unet": unet}), torch.no_grad():
        plain = float(loss_of(unet, context))
        network.load_parameters({name: p * 2 for name, p in network.named_parameters().items()})
        assert float(loss_of(unet, context)) != plain
        network.load_parameters({name: p / 2 for name, p in network.named_parameters().items()})
        assert float(loss_of(unet, context)) == plain
        with network.with_block_weights(BlockWeights.parse("NONE")):
            assert float(loss_of(unet, context)) != plain
        assert float(loss_of(unet, context)) == plain


def test_half_precision_is_merged_in_fp32(network, unet, context, monkeypatch) -> None:
    half = deepcopy(unet).to(torch.bfloat16)
    wanted = by_autograd(network, deepcopy(half).float(), context)
    with network.attached({"unet": half}), network.training():
        layers = [layer for layer in half.modules() if isinstance(layer, LoRALayer)]
        assert all(bank.weight(index).dtype == torch.float32 for bank, index in map(placed, layers))
        network.backward(loss_of(half, context.bfloat16()))
        found = gradients(network)
    together = torch.cat([g.flatten() for g in found.values()])
    aim = torch.cat([g.flatten() for g in wanted.values()])
    assert float(torch.nn.functional.cosine_similarity(together, aim, dim=0)) > 0.999
    fresh = Network.create(find_targets({"unet": half}), NetworkConfig(rank=2), seed=1)
    with torch.no_grad():
        before = loss_of(half, context.bfloat16())
        with fresh.attached({"unet": half}):
            assert torch.equal(loss_of(half, context.bfloat16()), before)


def placed(layer: LoRALayer) -> tuple[merged.MergedBank, int]:
    assert layer.place is not None
    return layer.place


def test_a_base_that_moves_away_with_the_factors_is_noticed(network, unet, context) -> None:
    own = deepcopy(unet)
    with network.attached({"unet": own}), network.training():
        loss = loss_of(own, context)
        own.to(torch.float64)
        with pytest.raises(RuntimeError, match="detach the network first"):
            network.backward(loss)


def test_gradients_that_an_optimizer_dropped_are_noticed(network, unet, context) -> None:
    with network.attached({"unet": unet}), network.training():
        flat = [p for own in network.flat_parameters().values() for p in own]
        torch.optim.SGD(flat, lr=0.1).zero_grad()
        with pytest.raises(RuntimeError, match="after_step"):
            network.backward(loss_of(unet, context))


def test_an_attach_that_fails_leaves_the_base_as_it_was(network, unet, monkeypatch) -> None:
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("lora_loop.core.adapters.network.MergedBank", full)
    with pytest.raises(MemoryError), network.attached({"unet": unet}):
        raise AssertionError
    assert not any(isinstance(module, LoRALayer) for module in unet.modules())
    find_targets({"unet": unet})


def test_a_network_made_under_inference_mode_can_be_used_and_trained(unet, context) -> None:
    with torch.inference_mode():
        network = Network.create(find_targets({"unet": unet}), NetworkConfig(rank=2), seed=1)
        with network.attached({"unet": unet}):
            loss_of(unet, context)
    with network.attached({"unet": unet}), network.training():
        network.backward(loss_of(unet, context))
        assert any(bool(g.any()) for g in gradients(network).values())


def test_layers_side_by_side_are_projected_in_one_product(network, unet) -> None:
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
    with network.attached({"unet": unet}), network.training():
        layers = [unet.get_submodule(f"{block}.to_{kind}") for kind in "qkv"]
        together = project(x, layers)
        assert together[0]._base is not None
        assert together[0]._base is together[2]._base
        for found, layer in zip(together, layers, strict=True):
            assert_close(found, layer(x))
        with torch.no_grad():
            for found, layer in zip(project(x, layers), layers, strict=True):
                assert torch.equal(found, layer(x))
    assert all(torch.equal(found, x) for found in project(x, [nn.Identity()] * 2))


def test_what_is_merged() -> None:
    assert merged.can_merge(nn.Linear(64, 64))
    assert merged.can_merge(nn.Conv2d(64, 64, 1))
    assert not merged.can_merge(nn.Conv2d(8, 8, 3))
    assert merged.can_merge(nn.Linear(128, 1024))
    assert not merged.can_merge(nn.Linear(320, 320))
    assert not merged.can_merge(nn.Linear(128, 1280))
    assert not merged.can_merge(nn.Linear(8, 8, device="meta"))


def test_a_backward_pass_outside_of_training_is_refused(network, unet, context) -> None:
    with network.attached({"unet": unet}), pytest.raises(RuntimeError, match="training"):
        network.backward(loss_of(unet, context))


def test_flat_factors_share_one_memory_and_one_version() -> None:
    given = {
        name: LoRAWeights(torch.full((2, 3), float(n)), torch.full((4, 2), -float(n)))
        for n, name in enumerate("abc")
    }
    given["d"] = LoRAWeights(torch.ones(2, 5), torch.ones(4, 2))
    flat = FlatFactors(given)
    assert [bank.paths for bank in flat.banks] == [("a", "b", "c"), ("d",)]
    assert flat.values.numel() == 3 * (6 + 8) + 10 + 8
    for name, (down, up) in given.items():
        assert torch.equal(flat.layers[name].down, down)
        assert torch.equal(flat.layers[name].up, up)
    before = flat.version
    with torch.no_grad():
        flat.layers["b"].up.fill_(7)
    assert flat.version > before
    assert torch.equal(flat.banks[0].up_LOR[1], torch.full((4, 2), 7.0))
    before = flat.version
    with torch.no_grad():
        flat.values.mul_(2)
    assert flat.version > before
    assert torch.equal(flat.layers["b"].up, torch.full((4, 2), 14.0))
    (bank, _) = flat.hold_gradients()
    bank.up_LOR[2] = 3
    assert torch.equal(flat.layers["c"].up.grad, torch.full((4, 2), 3.0))
    assert float(flat.values.grad.sum()) == 24


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_drawing_gives_the_same_numbers_without_a_call_beside_the_layers(
    network, unet, context, strength
) -> None:
    latents, timestep = torch.randn(1, 4, 8, 8), torch.tensor([400])

    def predict() -> Tensor:
        with torch.no_grad():
            return unet(latents, timestep, context[:1]).sample

    plain = predict()
    own = dict(unet.named_parameters())
    weights = BlockWeights.parse("IN04-IN08=0, OUT03=0.5")
    with network.attached({"unet": unet}):
        network.set_strength(unet=strength)
        whole = predict()
        network.set_strength(block_weights=weights)
        some = predict()
        network.set_strength(unet=strength)
        with network.drawing():
            assert not any(isinstance(module, LoRALayer) for module in unet.modules())
            assert torch.equal(predict(), whole)
            network.set_strength(block_weights=weights)
            assert torch.equal(predict(), some)
            network.set_strength(unet=0)
            assert torch.equal(predict(), plain)
            network.set_strength(block_weights=weights)
        assert torch.equal(predict(), some)
        with pytest.raises(RuntimeError, match="broken"), network.drawing():
            raise RuntimeError("broken")
        assert torch.equal(predict(), some)
        assert any(isinstance(module, LoRALayer) for module in unet.modules())
    assert all(parameter is own[name] for name, parameter in unet.named_parameters())
    assert torch.equal(predict(), plain)


def test_drawing_in_a_training_changes_nothing_in_it(network, unet, context) -> None:
    latents, timestep = torch.randn(1, 4, 8, 8), torch.tensor([400])

    def found(*, draws: bool) -> list[Tensor]:
        with network.attached({"unet": unet}), network.training():
            if draws:
                with torch.no_grad(), network.drawing():
                    unet(latents, timestep, context[:1])
            network.backward(unet(latents, timestep, context[:1]).sample.square().mean())
            return list(gradients(network).values())

    for one, other in zip(found(draws=True), found(draws=False), strict=True):
        assert torch.equal(one, other)
