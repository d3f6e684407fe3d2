"""Loading a thin checkpoint of random weights, and every way in which one can be unfit."""

import hashlib
import math
import socket

import pytest
import torch
from safetensors.torch import save_file

from lora_loop.core.errors import CheckpointError, ConfigError, TrainerError
from lora_loop.core.models import base_model, build
from lora_loop.core.models.base_model import BaseModel, load_base_model
from lora_loop.core.models.text import TextOptions, encode_ids, text_body
from lora_loop.core.models.unet_blocks import fused_attention, plain_attention, set_attention

from .make_checkpoint import (
    EMBEDDED_LIKE,
    THIN,
    random_weight,
    sd1_names,
    sd1_tensors,
    write_sd1_checkpoint,
)

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
SECOND = TextOptions(clip_skip=2)
CONV_IN = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def tensors():
    return sd1_tensors(THIN, seed=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder ü")
    stated = {"modelspec.resolution": "64x64"}
    return write_sd1_checkpoint(
        folder / "thin.safetensors", shape=THIN, seed=3, dtype=torch.float32, metadata=stated
    )


@pytest.fixture(scope="module")
def base(path) -> BaseModel:
    return load_base_model(path)


@pytest.fixture
def changed(tmp_path, tensors):
    """Write the thin checkpoint with other tensors; None takes one away."""

    def write(changes, metadata=None):
        found = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
        path = tmp_path / "changed.safetensors"
        save_file(found, path, metadata=metadata)
        return path

    return write


def refused(path, **settings) -> str:
    with pytest.raises(TrainerError) as caught:
        load_base_model(path, **settings)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_facts_of_the_model(base, path):
    assert (base.name, base.path, base.family.key) == ("thin", path, "sd1")
    assert (base.prediction, base.zero_terminal_snr) == ("epsilon", False)
    assert (base.resolution, base.latent_scale, base.latent_stride) == (64, 0.18215, 8)
    assert (base.device, base.dtype) == (torch.device("cpu"), torch.float32)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert base.sha256 == base.identity == digest


def test_everything_is_frozen_in_eval_mode_and_off_the_meta_device(base):
    for network in (base.vae, *base.parts.values()):
        assert not any(module.training for module in network.modules())
        for tensor in [*network.parameters(), *network.buffers()]:
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad
    positions = dict(base.text_encoders["text_encoder"].named_buffers())
    for value in positions.values():
        assert torch.equal(value, torch.arange(77).expand(1, -1))


def test_weights_are_the_files(base, tensors):
    unet, vae = base.unet.state_dict(), base.vae.state_dict()
    assert torch.equal(unet["conv_in.weight"], tensors[CONV_IN])
    stored = tensors[f"{VAE}decoder.mid.attn_1.q.weight"]
    assert torch.equal(vae["decoder.mid_block.attentions.0.to_q.weight"], stored[:, :, 0, 0])
    layer = text_body(base.text_encoders["text_encoder"]).encoder.layers[1].mlp.fc1.bias
    assert torch.equal(layer, tensors[f"{TEXT}encoder.layers.1.mlp.fc1.bias"])
    networks = (base.vae, *base.parts.values())
    total = sum(p.numel() for network in networks for p in network.parameters())
    assert total == sum(math.prod(size) for _, size in sd1_names(THIN))


def test_dtypes_are_as_asked(path):
    base = load_base_model(path, dtype=torch.bfloat16)
    assert {p.dtype for p in base.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in base.text_encoders["text_encoder"].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in base.vae.parameters()} == {torch.float32}
    assert base.dtype == torch.bfloat16
    condition = base.encode_text(["a cat"])
    assert condition.context.dtype == torch.bfloat16
    output = base.predict(torch.zeros(1, 4, 8, 8), torch.tensor([5]), condition)
    assert output.dtype == torch.bfloat16
    assert base.encode_images(torch.zeros(1, 3, 16, 16))[0].dtype == torch.float32
    assert load_base_model(path, vae_dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_fp16_storage_is_widened_exactly(tmp_path, tensors):
    path = write_sd1_checkpoint(
        tmp_path / "half.safetensors", shape=THIN, seed=3, dtype=torch.float16
    )
    weight = load_base_model(path).unet.get_parameter("conv_in.weight")
    assert torch.equal(weight, tensors[CONV_IN].half().float())


@pytest.mark.parametrize("size", [(6, 10), (7, 9), (1, 1), (8, 8)])
def test_unet_takes_odd_sizes(base, size):
    condition = base.encode_text(["a cat", ""])
    latents = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    output = base.predict(latents, torch.tensor([0, 999]), condition)
    assert output.shape == latents.shape
    assert torch.isfinite(output).all()
    assert not torch.equal(output[0], output[1])


def test_pictures_of_a_batch_are_those_of_single_ones(base):
    pixels = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = base.encode_images(pixels)
    assert mean.shape == std.shape == (3, 4, 3, 5)
    assert (std > 0).all()
    for n in range(3):
        alone = base.encode_images(pixels[n : n + 1])
        torch.testing.assert_close(alone[0][0], mean[n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[1][0], std[n], rtol=1e-4, atol=1e-5)
    decoded = base.decode(mean * 30)
    assert decoded.shape == (3, 3, 24, 40)
    assert decoded.dtype == torch.float32
    assert 0 <= decoded.min() < decoded.max() <= 1


def test_sides_of_pictures_must_be_multiples_of_8(base):
    with pytest.raises(ValueError, match="multiples of 8"):
        base.encode_images(torch.zeros(1, 3, 60, 64))


def test_clip_skip_is_the_hidden_state_with_the_final_norm(base):
    ids = base.tokenizer.encode(["a photo of a cat", ""])
    body = text_body(base.text_encoders["text_encoder"])
    states = base.text_encoders["text_encoder"](ids, output_hidden_states=True).hidden_states
    # the first state is the embedding, so that state -2 of two layers comes after layer 0
    after_first = body.final_layer_norm(states[1])
    torch.testing.assert_close(
        base.encode_text(["a photo of a cat", ""], SECOND).context, after_first
    )
    last = base.text_encoders["text_encoder"](ids).last_hidden_state
    assert torch.equal(base.encode_text(["a photo of a cat", ""]).context, last)
    assert not torch.allclose(last, after_first)
    assert len(body.encoder.layers) == 2


@pytest.mark.parametrize("clip_skip", [0, 3, -1])
def test_clip_skip_beyond_the_layers_is_refused(base, clip_skip):
    with pytest.raises(ConfigError, match=rf"clip_skip is {clip_skip}.*2 layers"):
        base.encode_text(["a cat"], TextOptions(clip_skip=clip_skip))


def test_layers_are_put_back_after_an_error(base):
    with pytest.raises(IndexError):
        encode_ids(base.text_encoders["text_encoder"], torch.full((1, 77), 10**6), 2)
    assert len(text_body(base.text_encoders["text_encoder"]).encoder.layers) == 2


def test_a_token_sees_only_those_before_it(base):
    ends = base.encode_text(["a cat on a mat", "a cat on a hat"]).context
    torch.testing.assert_close(ends[0, :5], ends[1, :5])
    assert not torch.allclose(ends[0, 5:], ends[1, 5:])


def test_gradients_flow_through_text_and_unet(base):
    weight = text_body(base.text_encoders["text_encoder"]).encoder.layers[0].mlp.fc1.weight
    weight.requires_grad_(True)
    try:
        condition = base.encode_text(["a cat"], SECOND)
        base.predict(torch.ones(1, 4, 8, 8), torch.tensor([5]), condition).sum().backward()
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_no_captions_give_no_context(base):
    assert base.encode_text([]).context.shape == (0, 77, 64)


def test_loading_needs_no_network(path, monkeypatch):
    def no_network(*_):
        raise AssertionError("tried the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    load_base_model(path).encode_text(["a cat"])


def test_the_file_may_go_once_it_is_loaded(tmp_path):
    path = write_sd1_checkpoint(tmp_path / "a.safetensors", shape=THIN, dtype=torch.float32)
    base = load_base_model(path)
    before = base.unet.get_parameter("conv_in.weight").clone()
    path.write_bytes(b"overwritten" * 1000)
    assert torch.equal(base.unet.get_parameter("conv_in.weight"), before)


def test_a_file_that_is_gone_before_it_was_hashed_is_an_error(tmp_path):
    path = write_sd1_checkpoint(tmp_path / "a.safetensors", shape=THIN)
    base = load_base_model(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="can't be read any more"):
        assert base.identity


def test_a_pickled_checkpoint_loads_as_well(tmp_path, base, tensors):
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": {name: value.half() for name, value in tensors.items()}}, path)
    ours = load_base_model(path).unet.state_dict()
    for name, value in base.unet.state_dict().items():
        assert torch.equal(ours[name], value.half().float())


def test_text_encoder_names_without_text_model_load_too(changed, base, tensors):
    renamed = {
        name.replace(".text_model.", "."): value
        for name, value in tensors.items()
        if name.startswith(TEXT)
    }
    gone = dict.fromkeys(name for name in tensors if name.startswith(TEXT))
    other = load_base_model(changed({**gone, **renamed}))
    assert torch.equal(other.encode_text(["a cat"]).context, base.encode_text(["a cat"]).context)


def test_vae_attention_may_be_stored_as_linears(changed, base, tensors):
    flat = {
        name: value[:, :, 0, 0].contiguous()
        for name, value in tensors.items()
        if ".attn_1." in name and value.ndim == 4
    }
    assert len(flat) == 8
    latents = torch.ones(1, 4, 2, 2)
    assert torch.equal(load_base_model(changed(flat)).decode(latents), base.decode(latents))


def test_what_files_carry_along_is_ignored(changed, tensors):
    extras = {
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "betas": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        f"{TEXT}embeddings.position_ids": torch.zeros(1, 77),
        "cond_stage_model.transformer.embeddings.position_ids": torch.zeros(1, 77),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "v_pred": torch.zeros(0),
        "ztsnr": torch.zeros(0),
    }
    base = load_base_model(changed(extras))
    assert (base.prediction, base.zero_terminal_snr) == ("v", True)
    overridden = load_base_model(changed(extras), "cpu", torch.float32, "epsilon", "no")
    assert (overridden.prediction, overridden.zero_terminal_snr) == ("epsilon", False)


def test_epsilon_with_zero_terminal_snr_is_refused(path):
    text = refused(path, zero_terminal_snr="yes")
    assert "base.zero_terminal_snr is 'yes'" in text
    assert load_base_model(path, prediction="v", zero_terminal_snr="yes").zero_terminal_snr


def test_missing_tensors_are_named_and_counted(changed, tensors):
    gone = [name for name in tensors if name.startswith(f"{UNET}middle_block.0.")]
    text = refused(changed(dict.fromkeys([*gone, f"{VAE}decoder.conv_out.bias"])))
    assert f"{len(gone)} tensors missing from its U-Net ({gone[0]}" in text
    assert f"1 tensor missing from its VAE ({VAE}decoder.conv_out.bias)" in text


def test_unknown_tensors_are_named_and_counted(changed):
    extra = {f"{UNET}input_blocks.1.5.weight": torch.zeros(2), "strange": torch.zeros(1)}
    text = refused(changed(extra))
    assert "2 tensors unknown" in text
    assert "strange" in text
    assert f"{UNET}input_blocks.1.5.weight" in text


def test_wrong_shapes_are_named(changed):
    name = f"{UNET}input_blocks.1.0.emb_layers.1.weight"
    assert f"{name} [7, 128] instead of [32, 128]" in refused(changed({name: torch.ones(7, 128)}))


@pytest.mark.parametrize(
    ("prefix", "title"),
    [(VAE, "VAE"), ("cond_stage_model.", "text encoder")],
)
def test_a_missing_part_is_named(changed, tensors, prefix, title):
    gone = dict.fromkeys(name for name in tensors if name.startswith(prefix))
    assert f"it has no {title}" in refused(changed(gone))


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        (f"{UNET}input_blocks.2.0.in_layers.2.weight", torch.ones(40, 32, 3, 3), "differ"),
        (f"{UNET}middle_block.1.transformer_blocks.0.norm1.weight", None, "no attention"),
        (f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight", torch.ones(64, 32), "32"),
        (f"{VAE}post_quant_conv.weight", torch.ones(4, 4), "has the shape"),
        (f"{VAE}encoder.down.3.block.0.conv1.weight", None, "3 levels"),
        (f"{TEXT}embeddings.token_embedding.weight", None, "no tensor"),
        (f"{TEXT}embeddings.token_embedding.weight", torch.ones(49410, 64), "[49410, 64]"),
        (CONV_IN, torch.ones(32, 9, 3, 3), "in-painting"),
        (CONV_IN, torch.ones(32, 6, 3, 3), "[32, 6, 3, 3] instead of [32, 4, 3, 3]"),
        (CONV_IN, torch.ones(3), "[3] instead of [32, 4, 3, 3]"),
    ],
)
def test_layouts_that_make_no_sense_are_refused(changed, name, value, meaning):
    assert meaning in refused(changed({name: value}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(changed, tensors, bad):
    name = f"{UNET}output_blocks.3.1.transformer_blocks.0.ff.net.2.weight"
    value = tensors[name].clone()
    value[3, 5] = bad
    assert f"weight {name!r} of its U-Net is not finite" in refused(changed({name: value}))


def test_weights_too_large_for_the_dtype_are_refused(changed, tensors):
    path = changed({CONV_IN: tensors[CONV_IN] * 1e7})
    assert "torch.float16" in refused(path, dtype=torch.float16)
    load_base_model(path, dtype=torch.bfloat16)


def test_the_embedded_model_is_asked_for_by_its_word(monkeypatch, path):
    monkeypatch.setattr(base_model, "EMBEDDED", path)
    assert load_base_model("embedded").path == path


def test_small_heads_on_the_cpu_use_plain_products(base):
    def chosen(device: str):
        build.use_quick_attention(base.unet, torch.device(device))
        kernels = (getattr(module, "kernel", None) for module in base.unet.modules())
        return {kernel for kernel in kernels if kernel is not None}

    try:
        assert chosen("cuda") == {fused_attention}
    finally:
        assert chosen("cpu") == {plain_attention}


def test_a_small_model_on_the_cpu_computes_by_channels(path):
    conv = load_base_model(path).unet.conv_in.weight
    assert conv.is_contiguous(memory_format=torch.channels_last)
    assert not conv.requires_grad


def test_both_attentions_agree(base):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = (latents, torch.tensor([400]), base.encode_text(["a cat"]))
    plain = base.predict(*inputs)
    try:
        set_attention(base.unet, fused_attention)
        torch.testing.assert_close(base.predict(*inputs), plain, rtol=1e-4, atol=1e-5)
    finally:
        build.use_quick_attention(base.unet, base.device)


def test_a_checkpoint_of_the_embedded_models_shape_loads(tmp_path):
    path = write_sd1_checkpoint(tmp_path / "e.safetensors", shape=EMBEDDED_LIKE)
    base = load_base_model(path)
    assert base.unet.config["block_out_channels"] == (64, 64, 128, 128)
    assert base.vae.config["block_out_channels"] == (128, 64, 64, 128)
    assert base.encode_text(["a cat"], TextOptions(clip_skip=4)).context.shape == (1, 77, 96)
    mean, _ = base.encode_images(torch.zeros(1, 3, 64, 64))
    assert base.decode(mean).shape == (1, 3, 64, 64)


def test_random_weights_of_the_helper_are_never_zero():
    chance = torch.Generator().manual_seed(0)
    for name, size in sd1_names(THIN):
        if "token_embedding" not in name:
            assert random_weight(name, size, chance).abs().max() > 0
