"""A base model over a host's storages: the file reader's numbers, and not one weight twice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_loop.core import session
from lora_loop.core.config import BaseConfig, MemoryConfig
from lora_loop.core.errors import CheckpointError, ConfigError
from lora_loop.core.models.base_model import BaseModel, load_base_model
from lora_loop.core.session import LiveFacts, LiveModel

from . import make_checkpoint as thin
from . import make_host as hosts

CPU = torch.device("cpu")
FACTS = LiveFacts(name="momo-merge")
NAMES = {
    "sd1": lambda: list(thin.sd1_names(thin.THIN)),
    # all 24 layers: hosts that hold them in transformers' names are told from diffusers by that
    "sd2": lambda: thin.sd2_names(text=replace(thin.THIN_SD2_TEXT, layers=24)),
    "sdxl": thin.sdxl_names,
}
SEED = 7


def tensors_of(family: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        name: tensor.to(dtype) for name, tensor in thin.tensors_of(NAMES[family](), SEED).items()
    }


def live_of(tensors: Mapping[str, Tensor], host: str, facts: LiveFacts = FACTS) -> LiveModel:
    if host == "webui":
        return LiveModel.of_checkpoint(hosts.webui(tensors), facts)
    if host == "comfy":
        return LiveModel.of_modules(**hosts.comfy(tensors), facts=facts)
    with torch.inference_mode():
        return LiveModel.of_checkpoint({name: t.clone() for name, t in tensors.items()}, facts)


def adopt(live: LiveModel, precision: Any = "auto", device: torch.device = CPU, **base: Any):
    return session.adopt(live, BaseConfig(**base), MemoryConfig(precision=precision), device)


def storages(tensors: Mapping[str, Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}


def parameters(base: BaseModel) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": parameter
        for part, network in {**base.parts, "vae": base.vae}.items()
        for name, parameter in network.named_parameters()
    }


def answers(base: BaseModel) -> list[Tensor]:
    """What every network of a base model says, in fp32."""
    chance = torch.Generator().manual_seed(0)
    latents, pixels = (torch.randn(2, n, s, s, generator=chance) for n, s in ((4, 16), (3, 16)))
    condition = base.encode_text(["a cat", ""])
    output = base.predict(latents, torch.tensor([10, 900]), condition)
    told = [condition.context, output, *base.encode_images(pixels), base.decode(latents)]
    return [
        answer.float()
        for answer in [*told, *([] if condition.pooled is None else [condition.pooled])]
    ]


def assert_same_answers(ours: BaseModel, theirs: BaseModel, limit: float = 2e-6) -> None:
    for mine, wanted in zip(answers(ours), answers(theirs), strict=True):
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < limit


class Read(NamedTuple):
    """The same weights, read from a file."""

    tensors: dict[str, Tensor]
    base: BaseModel


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def read(request, tmp_path_factory) -> Read:
    tensors = tensors_of(request.param)
    path = tmp_path_factory.mktemp("models") / "thin.safetensors"
    save_file(tensors, path)
    return Read(tensors, load_base_model(path))


@pytest.mark.parametrize("host", ["webui", "comfy", "mapping"])
def test_every_parameter_is_the_hosts_own_and_answers_as_the_file(read, host):
    live = live_of(read.tensors, host)
    host_tensors = live.tensors()
    assert all(tensor.is_inference() for tensor in host_tensors.values())
    with adopt(live) as base:
        own = parameters(base)
        assert own.keys() == parameters(read.base).keys()
        assert storages(own) <= storages(host_tensors)
        assert base.loan.own_bytes == 0
        assert not any(p.is_inference() or p.requires_grad for p in own.values())
        assert_same_answers(base, read.base)
        assert (base.family, base.prediction) == (read.base.family, read.base.prediction)
        assert base.name == "momo-merge"
    assert all(tensor.device.type == "meta" for tensor in parameters(base).values())


def input_gradient(base: BaseModel) -> Tensor:
    """Backward through U-Net and text encoder, as training with adapters at their beginning."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    latents.requires_grad_(True)
    output = base.predict(latents, torch.tensor([500]), base.encode_text(["a cat"]))
    output.square().mean().backward()
    assert latents.grad is not None
    return latents.grad


def test_a_backward_pass_runs_through_inference_tensors(read):
    live = live_of(read.tensors, "comfy")
    with adopt(live) as base:
        found, wanted = input_gradient(base), input_gradient(read.base)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert all(tensor.grad is None for tensor in live.tensors().values())


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_narrow_weights_are_shared_and_converted_at_each_use(read, dtype, tmp_path):
    stored = converted(read.tensors, dtype)
    save_file(converted(stored, torch.float32), tmp_path / "wide.safetensors")
    wide = load_base_model(tmp_path / "wide.safetensors")
    live = live_of(stored, "webui")
    with adopt(live) as base:
        own = parameters(base)
        matrices = {name: p for name, p in own.items() if p.dim() >= 2}
        assert storages(matrices) <= storages(live.tensors())
        assert {p.dtype for p in matrices.values()} == {dtype}
        vectors = sum(p.numel() * 4 for p in own.values() if p.dim() < 2)
        layers = {name: p.numel() * 4 for name, p in matrices.items() if ".embeddings." not in name}
        largest = [
            max(size for name, size in layers.items() if name.startswith(f"{part}."))
            for part in (*base.parts, "vae")
        ]
        assert base.loan.own_bytes == vectors + sum(largest)
        assert base.dtype == torch.float32
        assert_same_answers(base, wide)
        found, wanted = input_gradient(base), input_gradient(wide)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_a_bf16_step_over_fp16_weights(read, tmp_path):
    stored = converted(read.tensors, torch.float16)
    save_file(stored, tmp_path / "half.safetensors")
    wanted = load_base_model(tmp_path / "half.safetensors", dtype=torch.bfloat16)
    with adopt(live_of(stored, "comfy"), "bf16") as base:
        assert base.dtype == torch.bfloat16
        for mine, theirs in zip(answers(base), answers(wanted), strict=True):
            assert torch.equal(mine, theirs)


def test_what_lies_elsewhere_is_copied_and_counted(read):
    """The meta device stands for an accelerator that the host has not moved its model to."""
    live = live_of(converted(read.tensors, torch.float16), "webui")
    with adopt(live, device=torch.device("meta")) as base:
        own = parameters(base)
        assert {tensor.device.type for tensor in own.values()} == {"meta"}
        assert {p.dtype for p in own.values() if p.dim() >= 2} == {torch.float16}
        moved = sum(p.numel() * p.element_size() for p in own.values())
        assert moved <= base.loan.own_bytes < 2 * moved
    with adopt(live, "bf16", torch.device("meta")) as base:
        unet = {tensor.dtype for tensor in base.unet.parameters()}
        assert unet == {torch.bfloat16}  # copied anyway: converted on the way


@contextmanager
def lora_taken_out(host: nn.Module, log: list[str]) -> Iterator[None]:
    """As a host that keeps a LoRA merged into its weights."""
    weight = host.get_parameter("model.diffusion_model.out.2.weight")
    merged = weight.clone()
    with torch.inference_mode():
        weight.sub_(1)
    log.append("out")
    try:
        yield
    finally:
        with torch.inference_mode():
            weight.copy_(merged)
        log.append("back")


def test_a_merged_lora_is_taken_out_before_and_put_back_after():
    sd1 = tensors_of("sd1")
    name = "model.diffusion_model.out.2.weight"
    tensors = {**sd1, name: sd1[name] + 1}
    host, log = hosts.webui(tensors), []
    is_same = hosts.snapshot(host)
    facts = replace(FACTS, prepared=lambda: lora_taken_out(host, log))
    with adopt(LiveModel.of_checkpoint(host, facts)) as base:
        assert log == ["out"]
        assert torch.allclose(base.unet.conv_out.weight, sd1[name], atol=1e-6)
    assert log == ["out", "back"]
    assert is_same()


def test_convolutions_in_another_memory_format_are_shared_too(read):
    tensors = {
        name: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t
        for name, t in read.tensors.items()
    }
    live = LiveModel.of_checkpoint(tensors, FACTS)
    with adopt(live) as base:
        assert storages(parameters(base)) <= storages(tensors)
        assert_same_answers(base, read.base, 1e-5)


def test_identity_is_that_of_the_weights_not_of_the_hosts_modules():
    sd1 = tensors_of("sd1")
    names = {}
    for key, changed in (("webui", 0.0), ("mapping", 0.0), ("other", 1e-3)):
        tensors = dict(sd1)
        name = "first_stage_model.decoder.conv_out.bias"
        tensors[name] = tensors[name] + changed
        with adopt(live_of(tensors, "webui" if key == "webui" else "mapping")) as base:
            names[key] = base.identity
    assert names["webui"] == names["mapping"] != names["other"]


def test_the_user_is_asked_first_then_the_host_then_the_names():
    tensors = tensors_of("sd1")
    told = replace(FACTS, prediction="v", zero_terminal_snr=True)
    for facts, config, wanted in (
        (FACTS, {}, ("epsilon", False)),
        (told, {}, ("v", True)),
        (told, {"prediction": "v", "zero_terminal_snr": "no"}, ("v", False)),
        (replace(FACTS, metadata={"modelspec.prediction_type": "v"}), {}, ("v", False)),
    ):
        with adopt(live_of(tensors, "mapping", facts), **config) as base:
            assert (base.prediction, base.zero_terminal_snr) == wanted
    with (
        pytest.raises(ConfigError, match=r"base\.zero_terminal_snr"),
        adopt(live_of(tensors, "mapping", told), prediction="epsilon"),
    ):
        pass


def replaced(name: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[dict], None]:
    def apply(tensors: dict[str, Tensor]) -> None:
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed

    return apply


def added(name: str, tensor: Tensor) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: tensor})


class Quantised(torch.Tensor):
    """A tensor that only its host understands."""


UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
INSIDE = f"{UNET}middle_block.1.proj_in.weight"
QUERY = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced(INSIDE, lambda t: None), f"1 tensor missing from its U-Net ({INSIDE})"),
        (replaced(QUERY, lambda t: t[:-1]), f"{QUERY} [63, 64] instead of [64, 64]"),
        (added("model.strange", torch.ones(1)), "1 tensor unknown (model.strange)"),
        (
            replaced(INSIDE, lambda t: t.fill_(float("nan"))),
            "of its U-Net is not finite",
        ),
        (replaced(INSIDE, lambda t: t.to("meta")), "is not in memory"),
        (
            replaced(INSIDE, lambda t: t.to(torch.uint8)),
            "stored as torch.uint8, a quantised",
        ),
        (replaced(QUERY, lambda t: t.to_sparse()), "stored as torch.sparse_coo"),
        (replaced(INSIDE, lambda t: t.as_subclass(Quantised)), "is a Quantised (GGUF, nf4"),
        (
            added(QUERY.replace("weight", "scale_weight"), torch.ones(1)),
            "quantised weights with scales",
        ),
        (replaced(CONV_IN, lambda t: t.repeat(1, 3, 1, 1)[:, :9]), "an in-painting model"),
        (
            added("model.diffusion_model.label_emb.0.0.weight", torch.ones(64, 8)),
            "no tensor begins with 'conditioner.embedders.0.'",
        ),
    ],
)
def test_what_cant_be_trained_on_is_refused_with_the_reason(change, words):
    tensors = tensors_of("sd1")
    change(tensors)
    with pytest.raises(CheckpointError) as caught, adopt(LiveModel.of_checkpoint(tensors, FACTS)):
        pass
    assert words in str(caught.value)
    assert str(caught.value).startswith("momo-merge")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "momo-merge is not a checkpoint that is known here (0 tensors"),
        (
            {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.ones(1, 1)},
            "is Flux",
        ),
    ],
)
def test_a_host_without_a_model_for_us(tensors, words):
    with pytest.raises(CheckpointError) as caught, adopt(LiveModel.of_checkpoint(tensors, FACTS)):
        pass
    assert words in str(caught.value)


def test_a_vae_of_ones_own_is_not_taken_for_the_hosts():
    live = LiveModel.of_checkpoint({}, FACTS)
    with pytest.raises(ConfigError, match=r"base\.vae is other\.pt, but momo-merge is the host's"):
        adopt(live, vae="other.pt").__enter__()


def test_parts_are_known_by_name():
    with pytest.raises(CheckpointError, match="no part 'clip'; known are checkpoint, text_encoder"):
        LiveModel(parts={"clip": {}}, facts=FACTS)
    modules = hosts.comfy(tensors_of("sdxl"))
    del modules["clips"].clip_l
    with pytest.raises(CheckpointError, match="clip_l and clip_g"):
        LiveModel.of_modules(**modules, facts=FACTS)


def test_encoders_may_be_given_without_their_holder(read):
    modules = hosts.comfy(read.tensors)
    encoders = [clip.transformer for clip in modules["clips"].children()]
    parts = {
        "unet": modules["diffusion_model"],
        "vae": dict(modules["first_stage_model"].named_parameters()),
        **dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=False)),
    }
    with adopt(LiveModel(parts=parts, facts=FACTS)) as base:
        assert_same_answers(base, read.base)
