"""The receipt: nothing that happens to a host's model goes unseen, and nothing else is reported."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lora_loop.core.errors import HostChangedError
from lora_loop.core.models import receipt
from lora_loop.core.models.live import LiveFacts, LiveModel
from lora_loop.core.models.receipt import Receipt, unchanged
from lora_loop.core.models.samples import checksums, fingerprint, sample


class Block(nn.Module):
    """A small network such as a host may have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("steps", torch.arange(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def host() -> nn.Module:
    torch.manual_seed(0)
    with torch.inference_mode():
        model = nn.ModuleDict({"a": Block(), "b": Block()}).eval().requires_grad_(False)
        model.get_parameter("b.linear.weight")[1, 2] = float("nan")
    return model


def live_of(model: nn.Module) -> LiveModel:
    return LiveModel.of_checkpoint(model, LiveFacts(name="momo-merge"))


def linear(model: nn.Module) -> nn.Linear:
    layer = model.get_submodule("a.linear")
    assert isinstance(layer, nn.Linear)
    return layer


def change_one_number(model: nn.Module) -> None:
    with torch.inference_mode():
        linear(model).weight[3, 3] += 1e-6


def exchange_two_numbers(model: nn.Module) -> None:
    with torch.inference_mode():
        weight = linear(model).weight
        weight[0] = weight[0].flip(0)


def change_a_buffer(model: nn.Module) -> None:
    with torch.inference_mode():
        model.get_buffer("b.steps")[4] += 1


def replace_storage(model: nn.Module) -> None:
    layer = linear(model)
    layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)


def change_strides(model: nn.Module) -> None:
    layer = model.get_submodule("a.conv")
    with torch.inference_mode():
        weight = layer.weight
        layer.weight = nn.Parameter(
            weight.as_strided(weight.shape, (18, 9, 1, 3)), requires_grad=False
        )


def set_gradient(model: nn.Module) -> None:
    layer = linear(model)
    with torch.inference_mode():
        layer.bias.grad = torch.zeros(4)


def patch_the_class(model: nn.Module) -> None:
    def forward(self, x):
        return x

    kind = type("Block", (Block,), {"forward": forward})
    model.get_submodule("a").__class__ = kind


def run_hook(*_: object) -> None:
    """Stands for a hook."""


TAMPERINGS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "one number": (change_one_number, "content changed: 1 (checkpoint.a.linear.weight)"),
    "exchanged": (exchange_two_numbers, "content changed: 1 (checkpoint.a.linear.weight)"),
    "buffer": (change_a_buffer, "content changed: 1 (checkpoint.b.steps)"),
    "storage": (replace_storage, "storage changed: 1 (checkpoint.a.linear.weight)"),
    "device": (lambda m: m.get_submodule("a.norm").to("meta"), "device changed: 2 (checkpoint.a"),
    "dtype": (lambda m: linear(m).half(), "dtype changed: 2 (checkpoint.a.linear.weight, "),
    "strides": (change_strides, "strides changed: 1 (checkpoint.a.conv.weight)"),
    "gone": (lambda m: linear(m).register_parameter("bias", None), "tensor gone: 1 (checkpoint.a"),
    "new": (lambda m: m.register_buffer("z", torch.ones(1)), "tensor new: 1 (checkpoint.z)"),
    "gradient": (set_gradient, "grad changed: 1 (checkpoint.a.linear.bias)"),
    "requires_grad": (
        lambda m: linear(m).requires_grad_(True),
        "requires_grad changed: 2 (checkpoint.a.linear.weight, checkpoint.a.linear.bias)",
    ),
    "forward": (lambda m: setattr(linear(m), "forward", run_hook), "forward replaced: 1 (check"),
    "class": (patch_the_class, "class's forward replaced: 1 (checkpoint.a)"),
    "mode": (lambda m: linear(m).train(), "training mode changed: 1 (checkpoint.a.linear)"),
    "module": (
        lambda m: setattr(m["a"], "linear", m["b"].linear),
        "module replaced: 1 (checkpoint",
    ),
    "module new": (
        lambda m: m["a"].add_module("x", nn.Identity()),
        "module new: 1 (checkpoint.a.x",
    ),
    "module gone": (lambda m: m.pop("b"), "module gone: 4 (checkpoint.b, checkpoint.b.conv, "),
    "hook": (lambda m: linear(m).register_forward_hook(run_hook), "hooks changed: 1 (checkpoint.a"),
    "pre-hook": (lambda m: m.register_forward_pre_hook(run_hook), "hooks changed: 1 (checkpoint)"),
    "backward hook": (
        lambda m: linear(m).register_full_backward_hook(run_hook),
        "hooks changed: 1 (checkpoint.a.linear)",
    ),
    "state hook": (
        lambda m: linear(m).register_state_dict_pre_hook(run_hook),
        "hooks changed: 1 (checkpoint.a.linear)",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_every_tampering_is_reported_by_name(kind):
    tamper, words = TAMPERINGS[kind]
    model = host()
    if kind == "requires_grad":
        model = nn.ModuleDict({"a": Block()}).eval().requires_grad_(False)  # no inference tensors
    with pytest.raises(HostChangedError) as caught, unchanged(live_of(model)):
        tamper(model)
    assert words in str(caught.value)
    assert str(caught.value).startswith("the host's model momo-merge is not as it was before the")


def test_a_model_that_was_only_used_is_clean():
    model = host()
    with unchanged(live_of(model)) as kept:
        with torch.no_grad():
            model["a"](torch.ones(2, 4))
        model.state_dict()
        handle = linear(model).register_forward_hook(run_hook)
        handle.remove()
        assert kept.changes() == ()  # NaN included: it is compared as bytes
        assert all(kept.glance() == () for _ in range(20))


def test_an_error_in_the_block_is_told_with_the_change():
    model = host()
    with pytest.raises(HostChangedError) as caught, unchanged(live_of(model)):
        change_one_number(model)
        raise ValueError("the disk is full.")
    assert str(caught.value).startswith("the disk is full. Besides, the host's model momo-merge is")
    assert isinstance(caught.value.__cause__, ValueError)
    with (
        pytest.raises(HostChangedError, match=r"^KeyboardInterrupt\. Besides"),
        unchanged(live_of(model)),
    ):
        change_one_number(model)
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_without_a_change_goes_its_way(error):
    with pytest.raises(error), unchanged(live_of(host())):
        raise error


def test_a_glance_sees_replaced_weights_at_once_and_overwritten_ones_soon():
    model = host()
    kept = Receipt(live_of(model))
    change_one_number(model)
    seen = [kept.glance() for _ in range(8)]
    assert sum(bool(changes) for changes in seen) == 1
    replace_storage(model)
    assert kept.glance()[0].startswith("storage changed: 1")


def test_what_a_host_only_moved_while_it_worked_is_taken_as_given():
    model = host()
    with unchanged(live_of(model)) as kept:
        replace_storage(model)
        assert kept.renew() == ()
        assert kept.glance() == kept.changes() == ()
    with (
        pytest.raises(HostChangedError, match="content changed"),
        unchanged(live_of(model)) as kept,
    ):
        change_one_number(model)
        assert kept.renew() == ("content changed: 1 (checkpoint.a.linear.weight)",)
    kept = Receipt(live_of(model))
    model["b"].to("meta")
    assert kept.renew()[0].startswith("content changed: 7 (checkpoint.b.conv.weight, ")
    del model["a"]
    assert kept.renew()[0].startswith("tensor gone: 7 (checkpoint.a.conv.weight, ")


def test_large_models_are_sampled_and_a_merged_lora_is_still_found(monkeypatch):
    monkeypatch.setattr(receipt, "FULL_BYTES", 0)
    model = nn.Linear(1024, 1024, bias=False).requires_grad_(False)
    kept = Receipt(live_of(model))
    assert kept.changes() == ()
    model.weight += torch.randn(1024, 2) @ torch.randn(2, 1024) * 1e-3
    assert kept.changes() == ("content changed: 1 (checkpoint.weight)",)


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn, torch.int64])
@pytest.mark.parametrize("size", [1, 3, 8, 1001])
def test_any_flipped_bit_changes_the_checksum(dtype, size):
    tensor = torch.arange(size).to(dtype)
    (before,) = checksums([tensor], None)
    for place in (0, size * tensor.element_size() - 1, size * tensor.element_size() // 2):
        for bit in (1, 16, 128):
            bits(tensor)[place] ^= bit
            assert checksums([tensor], None) != [before]
            bits(tensor)[place] ^= bit
    assert checksums([tensor], None) == [before]


def test_checksums_ask_neither_for_an_offset_nor_for_an_order_in_memory():
    whole = torch.randn(3, 50, 7)
    part = whole.flatten()[3:200]
    assert checksums([part, whole.transpose(0, 2)], None) == checksums(
        [part.clone(), whole.transpose(0, 2).contiguous()], None
    )
    assert checksums([torch.ones(0)], None) == [(0, 0)]


def test_samples_are_spread_evenly_and_hold_the_end():
    tensor = torch.arange(1 << 20, dtype=torch.int32)
    found = sample(tensor, 1 << 16)
    assert found.numel() * 4 <= (1 << 16) + 4096
    assert found[0] == 0
    assert found[-1] == (1 << 20) - 1
    gaps = found.sort().values.diff()
    assert int(gaps.max()) <= (1 << 20) // 15
    assert sample(tensor, None).data_ptr() == tensor.data_ptr()


def test_a_fingerprint_is_of_names_shapes_dtypes_and_bytes():
    one = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    same = {"b": torch.zeros(4), "a": torch.ones(2, 3)}
    others = (
        {**one, "b": torch.ones(4)},
        {**one, "a": torch.ones(3, 2)},
        {**one, "b": torch.zeros(8, dtype=torch.float16)},
        {"a": one["a"], "c": one["b"]},
    )
    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(tensors) for tensors in (one, *others)}) == 5
