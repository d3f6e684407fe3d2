"""Adapter files as other tools write them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_loop.core.errors import FileError
from lora_loop.core.files.adapter_file import read_adapters, write_adapters
from lora_loop.core.files.names import own_key

DOWN, UP = torch.ones(2, 768), torch.ones(8, 2)
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
KOHYA_TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def written(path: Path, tensors: dict[str, Tensor], metadata=None) -> Path:
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata)
    return path


def pair(down: str, up: str) -> dict[str, Tensor]:
    return {down: DOWN, up: UP}


SPELLINGS = {
    "kohya": pair(f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight"),
    "diffusers": pair(f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"),
    "diffusers, attention processors": pair(
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight",
    ),
    "diffusers, U-Net alone": pair(
        f"{ATTENTION.replace('to_k', 'processor.to_k_lora')}.down.weight",
        f"{ATTENTION.replace('to_k', 'processor.to_k_lora')}.up.weight",
    ),
    "peft in diffusers": pair(f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"),
    "peft": pair(
        f"base_model.model.unet.{ATTENTION}.lora_A.default.weight",
        f"base_model.model.unet.{ATTENTION}.lora_B.default.weight",
    ),
    "ComfyUI": pair(
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_down.weight",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_up.weight",
    ),
    "ai-toolkit": pair(
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_A.weight",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_B.weight",
    ),
}


@pytest.mark.parametrize("tensors", SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_the_unet(tmp_path, tensors) -> None:
    file = read_adapters(written(tmp_path / "a.safetensors", tensors))
    assert set(file.layers) == {KOHYA}
    assert torch.equal(file.layers[KOHYA]["lora_down.weight"], DOWN)
    assert torch.equal(file.layers[KOHYA]["lora_up.weight"], UP)
    assert (file.family, file.unknown) == ("sd1", ())


@pytest.mark.parametrize(
    "stem",
    [
        "text_encoder." + TEXT,
        "text_encoders.clip_l.transformer." + TEXT,
        "clip_l.transformer." + TEXT,
        KOHYA_TEXT.replace("lora_te_", "lora_te1_"),
    ],
)
def test_spellings_of_the_text_encoder(tmp_path, stem) -> None:
    tensors = {**SPELLINGS["kohya"], f"{stem}.lora_A.weight": DOWN, f"{stem}.lora_B.weight": UP}
    file = read_adapters(written(tmp_path / "a.safetensors", tensors))
    assert set(file.layers) == {KOHYA, KOHYA_TEXT}


def test_sdxl_gets_the_original_codes_names_and_keeps_two_text_encoders(tmp_path) -> None:
    tensors = {
        f"{stem}.lora_{end}.weight": torch.ones(2, 2048)
        for stem in (
            "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
            "unet.up_blocks.0.upsamplers.0.conv",
            "text_encoder." + TEXT,
            "text_encoder_2." + TEXT,
        )
        for end in ("A", "B")
    }
    file = read_adapters(written(tmp_path / "a.safetensors", tensors))
    assert file.family == "sdxl"
    assert set(file.layers) == {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        "lora_unet_output_blocks_2_2_conv",
        KOHYA_TEXT.replace("lora_te_", "lora_te1_"),
        KOHYA_TEXT.replace("lora_te_", "lora_te2_"),
    }


def test_names_there_and_back_for_every_layer_of_kohyas_lists() -> None:
    folder = Path(__file__).parent / "keys"
    for family in ("sd1", "sd2", "sdxl"):
        lines = (folder / f"{family}.txt").read_text().splitlines()
        keys = [line.split()[1] for line in lines if line and not line.startswith("#")]
        assert len(keys) > 250
        assert all(own_key(key, family) == key for key in keys)
        other = "sd1" if family == "sdxl" else "sdxl"
        assert all(own_key(own_key(key, other), family) == key for key in keys)


def test_a_dora_of_peft_has_lengths_along_the_outputs(tmp_path) -> None:
    stem = f"unet.{ATTENTION}"
    tensors = {**SPELLINGS["peft in diffusers"], f"{stem}.lora_magnitude_vector": torch.ones(8)}
    file = read_adapters(written(tmp_path / "a.safetensors", tensors))
    assert file.layers[KOHYA]["dora_scale"].shape == (8, 1)


def test_every_suffix_of_lycoris_is_known_and_others_are_left_apart(tmp_path) -> None:
    own = {
        "hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": UP, "hada_w2_b": DOWN,
        "dora_scale": UP, "alpha": torch.tensor(1.0),
    }  # fmt: skip
    tensors = {f"{KOHYA}.{suffix}": tensor for suffix, tensor in own.items()}
    ia3 = {f"{KOHYA_TEXT}.weight": torch.ones(8), f"{KOHYA_TEXT}.on_input": torch.tensor(True)}
    apart = {"bundle_emb.word.string_to_param.*": DOWN, f"{KOHYA}x.alpha": torch.tensor(1.0)}
    file = read_adapters(written(tmp_path / "a.safetensors", {**tensors, **ia3, **apart}))
    assert set(file.layers[KOHYA]) == set(own)
    assert set(file.layers[KOHYA_TEXT]) == {"weight", "on_input"}
    assert set(file.unknown) == set(apart)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "is not a LoRA: it has none of its keys, but nothing"),
        ({"model.weight": DOWN}, "is not a LoRA.*model.weight"),
        ({"diffusion_model.double_blocks.0.img_mod.lora_A.weight": DOWN}, "made for Flux"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": DOWN}, "transformer"),
        ({f"{KOHYA}.lora_up.weight": UP * torch.nan}, "not finite"),
        ({f"{KOHYA}.lora_up.weight": UP.to(torch.int8)}, "quantised"),
        ({f"{KOHYA}.lora_up.weight": torch.empty(0, 2)}, "damaged"),
        ({f"{KOHYA}.lora_up.weight": UP, f"{KOHYA}.alpha": torch.ones(2)}, "damaged"),
        ({**SPELLINGS["kohya"], **SPELLINGS["peft in diffusers"]}, "twice"),
        ({**SPELLINGS["kohya"], **SPELLINGS["ComfyUI"]}, "twice"),
    ],
)
def test_what_is_no_network_says_so(tmp_path, tensors, words) -> None:
    with pytest.raises(FileError, match=words):
        read_adapters(written(tmp_path / "a.safetensors", tensors))


def test_cut_off_and_empty_files(tmp_path) -> None:
    path = written(tmp_path / "a.safetensors", SPELLINGS["kohya"])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match="8 bytes early"):
        read_adapters(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="not a safetensors file"):
        read_adapters(path)


@pytest.mark.parametrize(
    ("width", "metadata", "family"),
    [
        (768, {}, "sd1"),
        (1024, {}, "sd2"),
        (2048, {}, "sdxl"),
        (5, {"ss_base_model_version": "sd_v2_v"}, "sd2"),
        (5, {"ss_v2": "True"}, "sd2"),
        (5, {"ss_base_model_version": "sdxl_base_v1-0"}, "sd1"),  # no such block in SDXL
        (5, {}, "sd1"),
    ],
)
def test_the_family_is_told(tmp_path, width, metadata, family) -> None:
    tensors = pair(f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight")
    tensors[f"{KOHYA}.lora_down.weight"] = torch.ones(2, width)
    assert read_adapters(written(tmp_path / "a.safetensors", tensors, metadata)).family == family


def test_what_is_written_is_read(tmp_path) -> None:
    layers = {
        KOHYA: {"lora_down.weight": DOWN, "lora_up.weight": UP * 1e-9, "alpha": torch.tensor(0.1)},
        KOHYA_TEXT: {"weight": torch.ones(8), "on_input": torch.tensor(False)},
    }
    path = tmp_path / "a.safetensors"
    result = write_adapters(path, layers, {"ss_output_name": "a"}, "fp16")
    file = read_adapters(path)
    assert result.modules == 2
    assert file.metadata["sshs_model_hash"] == result.sshs_model_hash
    assert file.precision == "fp16"
    own = file.layers[KOHYA]
    assert own["lora_up.weight"].dtype == torch.float32  # fp16 would have silenced it
    assert float(own["alpha"]) == pytest.approx(0.1, rel=1e-3)
    assert file.layers[KOHYA_TEXT]["on_input"].dtype == torch.bool
    with pytest.raises(FileError, match="exists"):
        write_adapters(path, layers, {})
    large = {KOHYA: {"diff": DOWN * 1e6}}
    with pytest.raises(FileError, match="not finite in fp16"):
        write_adapters(tmp_path / "b.safetensors", large, {})
