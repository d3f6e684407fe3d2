"""What users give beside a single file: folders of diffusers', a separate VAE, a sidecar yaml."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_loop.core.errors import CheckpointError, ConfigError
from lora_loop.core.models.base_model import BaseModel, load_base_model, resolve_facts
from lora_loop.core.models.sources import open_source, read_sidecar

from . import make_checkpoint as thin

FAMILIES = ("sd1", "sd2", "sdxl")
NAMES = {
    "sd1": lambda: list(thin.sd1_names(thin.THIN)),
    "sd2": thin.sd2_names,
    "sdxl": thin.sdxl_names,
}
UNET_FILE, TEXT_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
ATTENTION = "encoder.mid_block.attentions.0"
V_SGM = "sgm.modules.diffusionmodules.denoiser_scaling.VScaling"


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Callable[[str], BaseModel]:
    """A thin single file of each family, read."""
    folder, read = tmp_path_factory.mktemp("single"), {}

    def of(family: str) -> BaseModel:
        if family not in read:
            path = folder / f"{family}.safetensors"
            read[family] = load_base_model(
                thin.write_checkpoint(path, NAMES[family](), 7, torch.float32)
            )
        return read[family]

    return of


@pytest.fixture
def folder(tmp_path, single) -> Callable[..., Path]:
    """The same weights as the libraries save them: an independent writer of their names."""

    def write(family: str, **saving: object) -> Path:
        base, path = single(family), tmp_path / "pipeline"
        base.unet.save_pretrained(path / "unet", **saving)
        base.vae.save_pretrained(path / "vae", **saving)
        for part, encoder in base.text_encoders.items():
            encoder.save_pretrained(path / part)
        write_json(path / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
        return path

    return write


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def change(path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = {**load_file(path), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


def assert_same_weights(ours: BaseModel, theirs: BaseModel) -> None:
    networks = zip(
        (ours.vae, *ours.parts.values()), (theirs.vae, *theirs.parts.values()), strict=True
    )
    for own, other in networks:
        found, wanted = own.state_dict(), other.state_dict()
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def refused(path: Path, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_base_model(path, **settings)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_what_the_single_file_gives(folder, single, family):
    path = folder(family)
    base = load_base_model(path)
    assert base.family.key == family
    assert base.name == "pipeline"
    assert_same_weights(base, single(family))
    assert base.identity == load_base_model(path / "model_index.json").identity


def test_shards_are_put_together(folder, single):
    path = folder("sd1", max_shard_size="2MB")
    assert len(list((path / "unet").glob("*.safetensors"))) > 2
    assert_same_weights(load_base_model(path), single("sd1"))
    lost = sorted((path / "unet").glob("*.safetensors"))[1]
    lost.unlink()
    message = refused(path)
    assert f"lacks 1 of the {len(list((path / 'unet').glob('*.safetensors'))) + 1}" in message
    assert lost.name in message


@pytest.mark.parametrize("weight_map", [None, {}, {"a": "../other.safetensors"}, {"a": 3}])
def test_an_index_of_shards_names_files_beside_it(folder, weight_map):
    path = folder("sd1")
    (path / "unet" / UNET_FILE).unlink()
    write_json(path / "unet" / f"{UNET_FILE}.index.json", {"weight_map": weight_map})
    assert "names no files" in refused(path)


def test_a_half_precision_variant_is_taken_where_there_is_no_other(folder, single):
    path = folder("sd1")
    full = path / "unet" / UNET_FILE
    half = {name: weight.half() for name, weight in load_file(full).items()}
    save_file(half, full.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_same_weights(load_base_model(path), single("sd1"))
    full.unlink()
    unet = load_base_model(path).unet.state_dict()
    assert all(torch.equal(unet[name], weight.float()) for name, weight in half.items())


def test_pickled_weights_are_read(folder, single):
    path = folder("sd1")
    kinds = {
        path / "unet" / UNET_FILE: "diffusion_pytorch_model.bin",
        path / "text_encoder" / TEXT_FILE: "pytorch_model.bin",
    }
    for file, pickled in kinds.items():
        if file.exists():  # older transformers pickle of themselves
            torch.save(load_file(file), file.with_name(pickled))
            file.unlink()
        assert file.with_name(pickled).is_file()
    assert_same_weights(load_base_model(path), single("sd1"))


@pytest.mark.parametrize(
    ("scheduler", "prediction", "zero"),
    [
        (None, "epsilon", False),
        ({"prediction_type": "epsilon"}, "epsilon", False),
        ({"prediction_type": "v_prediction"}, "v", False),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v", True),
    ],
)
def test_the_scheduler_tells_the_prediction(folder, scheduler, prediction, zero):
    path = folder("sd2")
    if scheduler:
        write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    base = load_base_model(path)
    assert (base.prediction, base.zero_terminal_snr) == (prediction, zero)


def test_the_unet_tells_the_resolution(folder):
    path = folder("sd1")
    config = json.loads((path / "unet" / "config.json").read_text())
    write_json(path / "unet" / "config.json", {**config, "sample_size": 24})
    assert load_base_model(path).resolution == 192


def test_attention_of_a_vae_may_have_its_old_names(folder, single):
    path = folder("sd1")
    file = path / "vae" / UNET_FILE
    tensors = load_file(file)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for half in ("encoder", "decoder"):
        for new, old in names.items():
            for kind in ("weight", "bias"):
                place = f"{half}.mid_block.attentions.0."
                tensors[f"{place}{old}.{kind}"] = tensors.pop(f"{place}{new}.{kind}")
    save_file(tensors, file)
    assert_same_weights(load_base_model(path), single("sd1"))


def test_tensors_are_named_as_the_folder_has_them(folder):
    path = folder("sd1")
    lost = "up_blocks.1.resnets.0.conv1.weight"
    change(path / "unet" / UNET_FILE, {lost: None, "strange.weight": torch.ones(1)})
    damaged = {"decoder.conv_out.bias": torch.ones(5)}
    change(path / "vae" / UNET_FILE, damaged)
    message = refused(path)
    assert f"1 tensor missing from its U-Net (unet/{lost})" in message
    assert "1 tensor unknown (unet/strange.weight)" in message
    assert "vae/decoder.conv_out.bias [5] instead of [3]" in message


def test_weights_that_are_no_numbers_are_named(folder):
    path = folder("sd1")
    change(path / "vae" / UNET_FILE, {"decoder.conv_out.bias": torch.full((3,), torch.nan)})
    assert "weight 'vae/decoder.conv_out.bias' of its VAE is not finite" in refused(path)


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("PixArtSigmaPipeline", "PixArt"),
        ("SomethingNewPipeline", "SomethingNewPipeline"),
    ],
)
def test_other_pipelines_are_called_by_their_name(tmp_path, kind, title):
    write_json(tmp_path / "model_index.json", {"_class_name": kind})
    (tmp_path / "transformer").mkdir()
    message = refused(tmp_path)
    assert f"is {title}, in diffusers' layout ({kind})" in message
    assert "can't be trained yet" in message


def test_what_is_no_pipeline_is_said(tmp_path, folder):
    assert "is a folder, and no pipeline" in refused(tmp_path)
    path = folder("sd1")
    (path / "unet" / UNET_FILE).unlink()
    assert "holds no weights" in refused(path)
    (path / "unet" / UNET_FILE).write_bytes(b"<html>")
    assert "web page" in str(refused_by(path))
    (path / "model_index.json").write_text("{")
    assert "can't be read as JSON" in refused(path)


def refused_by(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_base_model(path)
    return caught.value


def test_an_inpainting_folder_and_a_refiners_are_refused_by_name(folder):
    path = folder("sdxl")
    wide = torch.ones(64, 9, 3, 3)
    change(path / "unet" / UNET_FILE, {"conv_in.weight": wide})
    assert "in-painting" in refused(path)
    change(path / "unet" / UNET_FILE, {"conv_in.weight": wide[:, :4].contiguous()})
    (path / "text_encoder").rename(path / "unused")
    assert "refiner" in refused(path)


def test_a_part_that_is_missing_is_named(folder):
    path = folder("sd1")
    (path / "vae").rename(path / "unused")
    assert "it has no VAE" in refused(path)


TOKENS = (b"{", b"[", b'"', b"null", b"-1", b"1e999", b"NaN", b"true", b"\xff", b"[" * 5000)


def mutated(raw: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(raw))
    end = chance.choice((at, at + 1, at + chance.randrange(20), len(raw)))
    return raw[:at] + chance.choice((b"", bytes([chance.randrange(256)]), *TOKENS)) + raw[end:]


def test_mutated_configurations_end_in_our_own_error_or_a_sound_reading(folder):
    path = folder("sd2", max_shard_size="4MB")
    scheduler = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    sources = {file: file.read_bytes() for file in sorted(path.rglob("*.json"))}
    assert any(file.name.endswith(".index.json") for file in sources)
    chance, refusals = Random(3), 0
    for _ in range(500):
        file = chance.choice(list(sources))
        file.write_bytes(mutated(sources[file], chance))
        try:
            facts = resolve_facts(open_source(path), "auto", "auto")
            assert 64 <= facts.resolution <= 4096
        except (CheckpointError, ConfigError):
            refusals += 1
        file.write_bytes(sources[file])
    assert refusals > 200


# ---- a VAE apart -----------------------------------------------------------------------------


@pytest.fixture
def vae_tensors() -> dict[str, torch.Tensor]:
    """Another VAE, in LDM's names without a prefix."""
    prefix = "first_stage_model."
    tensors = thin.tensors_of(NAMES["sd1"](), 8)
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@pytest.fixture
def other(vae_tensors, tmp_path) -> Path:
    path = tmp_path / "other.vae.safetensors"
    save_file(vae_tensors, path)
    return path


def test_a_separate_vae_takes_the_place_of_the_models(single, other, vae_tensors):
    own = single("sd1")
    base = load_base_model(own.path, vae=other)
    assert torch.equal(base.vae.decoder.conv_out.weight, vae_tensors["decoder.conv_out.weight"])
    found, wanted = base.unet.state_dict(), own.unet.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert base.vae_path == other
    assert base.sha256 == own.sha256
    assert base.identity != own.identity == own.sha256
    assert base.vae_sha256 is not None
    assert own.vae_sha256 is None


def test_every_kind_of_vae_file_is_read(single, other, vae_tensors, tmp_path, folder):
    wanted = load_base_model(single("sd1").path, vae=other).vae.state_dict()
    prefixed = tmp_path / "prefixed.safetensors"
    save_file({f"first_stage_model.{name}": t for name, t in vae_tensors.items()}, prefixed)
    pickled = tmp_path / "vae.pt"
    extra = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(())}
    torch.save({"state_dict": {**vae_tensors, **extra}}, pickled)
    whole = thin.write_checkpoint(tmp_path / "whole.safetensors", NAMES["sd1"](), 8, torch.float32)
    pipeline = folder("sd1")
    load_base_model(whole).vae.save_pretrained(pipeline / "vae")
    component = pipeline / "vae"
    for path in (prefixed, pickled, whole, pipeline, component, component / UNET_FILE):
        found = load_base_model(single("sd1").path, vae=path).vae.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), path


def test_a_checkpoint_without_a_vae_takes_one(other, tmp_path):
    names = [pair for pair in NAMES["sd1"]() if not pair[0].startswith("first_stage_model.")]
    path = thin.write_checkpoint(tmp_path / "pruned.safetensors", names, 7, torch.float32)
    assert "it has no VAE" in refused(path)
    assert load_base_model(path, vae=other).vae_path == other


def test_another_familys_vae_is_refused(single, folder, tmp_path):
    sd1, sdxl = single("sd1"), single("sdxl")
    message = refused(sdxl.path, vae=sd1.path)
    assert "0.18215" in message
    assert "Stable Diffusion XL" in message
    path = folder("sdxl") / "vae"
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "scaling_factor": 0.13025})
    assert "scaled by 0.13025" in refused(sd1.path, vae=path)
    assert load_base_model(sdxl.path, vae=path).vae_path == path


def test_a_vae_of_other_channels_is_refused(single, vae_tensors, tmp_path):
    path = tmp_path / "flux-ae.safetensors"
    wide = {"decoder.conv_in.weight": torch.ones(64, 16, 3, 3)}
    save_file({**vae_tensors, **wide}, path)
    assert "makes latents of 16 channels" in refused(single("sd1").path, vae=path)


def test_what_is_no_vae_is_refused(single, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_mid_block.alpha": torch.ones(())}, path)
    with pytest.raises(CheckpointError, match=r"base\.vae: .*is not a VAE"):
        load_base_model(single("sd1").path, vae=path)
    with pytest.raises(CheckpointError, match=r"base\.vae: .*can't be opened"):
        load_base_model(single("sd1").path, vae=tmp_path / "none.safetensors")


def test_a_damaged_vae_is_named_by_its_file(single, vae_tensors, tmp_path):
    path = tmp_path / "damaged.safetensors"
    lost = vae_tensors.pop("decoder.conv_out.bias")
    save_file({**vae_tensors, "strange": lost}, path)
    message = refused(single("sd1").path, vae=path)
    assert f"missing from its VAE ({path}: decoder.conv_out.bias)" in message
    assert f"unknown ({path}: strange)" in message


# ---- sidecars and storage --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', {"parameterization": "v"}),
        ("  parameterization: eps # the noise\n", {"parameterization": "eps"}),
        (f"scaling_config:\n  target: {V_SGM}\n", {"parameterization": "v"}),
        (f"- target: {V_SGM.replace('VScaling', 'EpsScaling')}", {"parameterization": "eps"}),
        ("target: ldm.models.diffusion.ddpm.LatentDiffusion\nparams: {a: 1}\n", {}),
        ("zero_terminal_snr: true\n", {"zero_terminal_snr": "true"}),
        ("# parameterization: v\n", {}),
        ("", {}),
    ],
)
def test_what_a_sidecar_says(text, stated):
    assert read_sidecar(text) == stated


def test_a_sidecar_tells_what_the_file_does_not(tmp_path):
    path = thin.write_checkpoint(tmp_path / "m.safetensors", NAMES["sd1"](), 7, torch.float32)
    path.with_suffix(".yaml").write_text("parameterization: v\nztsnr: true\n")
    base = load_base_model(path)
    assert (base.prediction, base.zero_terminal_snr) == ("v", True)
    assert load_base_model(path, prediction="epsilon", zero_terminal_snr="no").prediction != "v"
    stated = {"modelspec.prediction_type": "epsilon", "ztsnr": "false"}
    thin.write_checkpoint(path, NAMES["sd1"](), 7, torch.float32, stated)
    assert load_base_model(path).prediction == "epsilon"
    path.with_suffix(".yaml").write_bytes(b"parameterization: \xff\n")
    assert load_base_model(path).prediction == "epsilon"


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_weights_in_eight_bits_are_read_as_they_round(tmp_path, kind):
    tensors = {n: t.to(getattr(torch, kind)) for n, t in thin.tensors_of(NAMES["sd1"](), 7).items()}
    path = tmp_path / "fp8.safetensors"
    save_file(tensors, path)
    base = load_base_model(path)
    stored = tensors["model.diffusion_model.input_blocks.0.0.weight"]
    assert base.unet.conv_in.weight.dtype == torch.float32
    assert torch.equal(base.unet.conv_in.weight, stored.float())
