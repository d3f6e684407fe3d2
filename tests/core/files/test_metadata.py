"""Metadata: a golden table in sd-scripts' spelling, written by hand from its sources."""

import json
import os
from dataclasses import replace

import pytest
import torch

from lora_loop.core.config.recipe import (
    BaseConfig,
    DatasetConfig,
    LrScheduleConfig,
    MemoryConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimizerConfig,
    OutputConfig,
    Recipe,
    TrainingConfig,
)
from lora_loop.core.files.metadata import RunFacts, training_metadata
from lora_loop.core.files.metadata_dataset import (
    BUCKET_LIMIT,
    FOLDER_LIMIT,
    TAG_LIMIT,
    Folder,
    tag_frequency,
)
from lora_loop.core.files.serialise import header_bytes

FACTS = RunFacts(
    output_name="momo-step00000050",
    family="sd1",
    prediction="epsilon",
    zero_terminal_snr=False,
    base_file="v1-5 pruned.safetensors",
    base_sha256="6c" * 32,
    base_old_hash="81761151",
    resolution=512,
    folders=(
        Folder(name="2_momo", repeats=2, captions=("Momo, 1girl", "momo ,  smile,, momo")),
        Folder(name="犬", repeats=1, captions=("dog",)),
    ),
    buckets=((512, 512, 3), (448, 576, 2)),
    aspect_error=0.03125,
    batches_per_epoch=3,
    epochs=40,
    epoch=20,
    steps=50,
    total_steps=100,
    precision="bf16",
    version="0.1.0",
)
RECIPE = Recipe(
    base=BaseConfig(clip_skip=2),
    dataset=DatasetConfig(folder="pictures", bucket_upscale=True),
    network=NetworkConfig(rank=8, alpha=4),
    optimizer=OptimizerConfig(unet_lr=1e-4, text_encoder_lr=5e-5, weight_decay=0.01),
    lr_schedule=LrScheduleConfig(kind="cosine", warmup=0.05),
    objective=ObjectiveConfig(min_snr_gamma=5.0, noise_offset=0.0),
    training=TrainingConfig(seed=42, batch_size=2, gradient_accumulation=3),
    memory=MemoryConfig(gradient_checkpointing=True),
    output=OutputConfig(name="momo", trigger="momo"),
)
TAGS = '{"2_momo": {"momo": 3, "1girl": 1, "smile": 1}, "\\u72ac": {"dog": 1}}'
GOLDEN = {
    "ss_output_name": "momo-step00000050",
    "ss_training_comment": "None",
    "ss_seed": "42",
    "ss_steps": "50",
    "ss_epoch": "20",
    "ss_max_train_steps": "100",
    "ss_num_epochs": "40",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "8",
    "ss_network_alpha": "4.0",
    "ss_network_dropout": "None",
    "ss_network_args": "{}",
    "ss_v2": "False",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "v1-5 pruned.safetensors",
    "ss_sd_model_hash": "81761151",
    "ss_new_sd_model_hash": "6c" * 32,
    "ss_vae_name": "None",
    "ss_vae_hash": "None",
    "ss_new_vae_hash": "None",
    "ss_clip_skip": "2",
    "ss_max_token_length": "None",
    "ss_mixed_precision": "bf16",
    "ss_full_fp16": "False",
    "ss_cache_latents": "True",
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "0.0001",
    "ss_text_encoder_lr": "5e-05",
    "ss_lr_scheduler": "cosine",
    "ss_lr_warmup_steps": "5",
    "ss_max_grad_norm": "1.0",
    "ss_gradient_accumulation_steps": "3",
    "ss_gradient_checkpointing": "True",
    "ss_min_snr_gamma": "5.0",
    "ss_noise_offset": "None",
    "ss_zero_terminal_snr": "False",
    "ss_loss_type": "l2",
    "ss_prior_loss_weight": "1.0",
    "ss_num_train_images": "5",
    "ss_num_reg_images": "0",
    "ss_num_batches_per_epoch": "3",
    "ss_batch_size_per_device": "2",
    "ss_total_batch_size": "2",
    "ss_resolution": "(512, 512)",
    "ss_enable_bucket": "True",
    "ss_bucket_no_upscale": "False",
    "ss_min_bucket_reso": "448",
    "ss_max_bucket_reso": "576",
    "ss_shuffle_caption": "False",
    "ss_keep_tokens": "0",
    "ss_reg_dataset_dirs": "{}",
    "ss_tag_frequency": TAGS,
    "ss_dataset_dirs": '{"2_momo": {"n_repeats": 2, "img_count": 2}, '
    '"\\u72ac": {"n_repeats": 1, "img_count": 1}}',
    "ss_bucket_info": '{"buckets": {"0": {"resolution": [512, 512], "count": 3}, '
    '"1": {"resolution": [448, 576], "count": 2}}, "mean_img_ar_error": 0.03125}',
    "modelspec.sai_model_spec": "1.0.1",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.implementation": "diffusers",
    "modelspec.implementation_version": "lora-loop/0.1.0",
    "modelspec.title": "momo-step00000050",
    "modelspec.resolution": "512x512",
    "modelspec.prediction_type": "epsilon",
    "modelspec.encoder_layer": "2",
    "modelspec.trigger_phrase": "momo",
}
# lora_files.md 3a; without times, the run's id and the commit.
REQUIRED = frozenset(
    """
ss_output_name ss_training_comment ss_seed ss_lowram ss_steps ss_epoch
ss_learning_rate ss_text_encoder_lr ss_unet_lr ss_optimizer ss_lr_scheduler ss_lr_warmup_steps
ss_max_grad_norm ss_gradient_accumulation_steps ss_gradient_checkpointing ss_max_train_steps
ss_num_train_images ss_num_validation_images ss_num_reg_images ss_num_batches_per_epoch
ss_num_epochs ss_network_module ss_network_dim ss_network_alpha ss_network_dropout ss_network_args
ss_scale_weight_norms ss_v2 ss_base_model_version ss_sd_model_name ss_sd_model_hash
ss_new_sd_model_hash ss_vae_name ss_vae_hash ss_new_vae_hash ss_clip_skip ss_max_token_length
ss_mixed_precision ss_full_fp16 ss_fp8_base ss_fp8_base_unet ss_cache_latents
ss_noise_offset ss_noise_offset_random_strength
ss_adaptive_noise_scale ss_multires_noise_iterations ss_multires_noise_discount ss_ip_noise_gamma
ss_ip_noise_gamma_random_strength ss_zero_terminal_snr ss_min_snr_gamma ss_debiased_estimation
ss_loss_type ss_huber_schedule ss_huber_scale ss_huber_c ss_prior_loss_weight
ss_caption_dropout_rate ss_caption_dropout_every_n_epochs ss_caption_tag_dropout_rate
ss_face_crop_aug_range ss_resize_interpolation ss_validation_seed ss_validation_split
ss_max_validation_steps ss_validate_every_n_epochs ss_validate_every_n_steps
ss_batch_size_per_device ss_total_batch_size ss_resolution ss_color_aug ss_flip_aug ss_random_crop
ss_shuffle_caption ss_enable_bucket ss_bucket_no_upscale ss_min_bucket_reso ss_max_bucket_reso
ss_keep_tokens ss_dataset_dirs ss_reg_dataset_dirs ss_tag_frequency ss_bucket_info ss_datasets
""".split()  # noqa: SIM905
)


def section(name: str, **changes) -> Recipe:
    return replace(RECIPE, **{name: replace(getattr(RECIPE, name), **changes)})


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_table(key):
    assert training_metadata(RECIPE, FACTS)[key] == GOLDEN[key]


def test_every_key_that_sd_scripts_writes():
    assert REQUIRED - set(training_metadata(RECIPE, FACTS)) == set()


def test_values_are_strings_without_times():
    metadata = training_metadata(RECIPE, FACTS)
    assert all(type(value) is str for pair in metadata.items() for value in pair)
    assert not [key for key in metadata if key.endswith(("_at", "_id", ".date"))]
    assert metadata == training_metadata(RECIPE, FACTS)


def test_the_optimizer_is_spelt_as_a_call():
    text = training_metadata(RECIPE, FACTS)["ss_optimizer"]
    assert text.startswith("torch.optim.adamw.AdamW(weight_decay=0.01")
    assert text.endswith(")")


def test_datasets_say_the_same_as_the_folder_keys():
    metadata = training_metadata(RECIPE, FACTS)
    (dataset,) = json.loads(metadata["ss_datasets"])
    assert dataset["num_train_images"] == 5
    assert dataset["resolution"] == [512, 512]
    assert dataset["tag_frequency"] == json.loads(metadata["ss_tag_frequency"])
    assert dataset["bucket_info"] == json.loads(metadata["ss_bucket_info"])
    assert [(s["image_dir"], s["num_repeats"], s["img_count"]) for s in dataset["subsets"]] == [
        ("2_momo", 2, 2),
        ("犬", 1, 1),
    ]


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        (section("network", text_encoder=False), "ss_text_encoder_lr", "None"),
        (section("network", unet=False), "ss_unet_lr", "None"),
        (section("objective", min_snr_gamma=0.0), "ss_min_snr_gamma", "None"),
        (section("objective", noise_offset=0.05), "ss_noise_offset", "0.05"),
        (section("output", comment='夏 "v1"'), "ss_training_comment", '夏 "v1"'),
        (section("output", comment="for tests"), "modelspec.description", "for tests"),
        (section("dataset", buckets=False), "ss_enable_bucket", "False"),
        (section("network", alpha=0.5), "ss_network_alpha", "0.5"),
    ],
)
def test_settings_show_in_their_keys(recipe, key, value):
    assert training_metadata(recipe, FACTS)[key] == value


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"precision": "fp32"}, "ss_mixed_precision", "no"),
        ({"precision": "fp16"}, "ss_mixed_precision", "fp16"),
        ({"prediction": "v"}, "ss_base_model_version", "sd_v1_v"),
        ({"prediction": "v"}, "modelspec.prediction_type", "v"),
        ({"zero_terminal_snr": True}, "ss_zero_terminal_snr", "True"),
        ({"resolution": 768}, "modelspec.resolution", "768x768"),
        ({"base_file": None}, "ss_sd_model_name", "None"),
        ({"base_sha256": None}, "ss_new_sd_model_hash", "None"),
        ({"base_old_hash": None}, "ss_sd_model_hash", "None"),
        ({"vae_file": "ft-mse.safetensors"}, "ss_vae_name", "ft-mse.safetensors"),
        ({"vae_sha256": "73" * 32}, "ss_new_vae_hash", "73" * 32),
        ({"vae_old_hash": "2a1b9f00"}, "ss_vae_hash", "2a1b9f00"),
    ],
)
def test_facts_show_in_their_keys(changes, key, value):
    assert training_metadata(RECIPE, replace(FACTS, **changes))[key] == value


SGM = "https://github.com/Stability-AI/generative-models"


@pytest.mark.parametrize(
    ("family", "prediction", "values"),
    [
        ("sd1", "epsilon", ("stable-diffusion-v1/lora", "diffusers", "sd_v1", "False")),
        ("sd1", "v", ("stable-diffusion-v1/lora", "diffusers", "sd_v1_v", "False")),
        ("sd2", "epsilon", ("stable-diffusion-v2-512/lora", "diffusers", "sd_v2", "True")),
        ("sd2", "v", ("stable-diffusion-v2-768-v/lora", "diffusers", "sd_v2_v", "True")),
        ("sdxl", "epsilon", ("stable-diffusion-xl-v1-base/lora", SGM, "sdxl_base_v1-0", "False")),
        ("sdxl", "v", ("stable-diffusion-xl-v1-base/lora", SGM, "sdxl_base_v1-0", "False")),
    ],
)
def test_families(family, prediction, values):
    """What the hosts tell a file's family by."""
    metadata = training_metadata(RECIPE, replace(FACTS, family=family, prediction=prediction))
    keys = ("modelspec.architecture", "modelspec.implementation", "ss_base_model_version", "ss_v2")
    assert tuple(metadata[key] for key in keys) == values
    assert metadata["modelspec.prediction_type"] == prediction


@pytest.mark.parametrize(("family", "layer"), [("sd1", "2"), ("sd2", None), ("sdxl", None)])
def test_only_sd1_has_a_layer_to_choose(family, layer):
    metadata = training_metadata(RECIPE, replace(FACTS, family=family))
    assert metadata["ss_clip_skip"] == str(layer)
    assert metadata.get("modelspec.encoder_layer") == layer


def test_empty_modelspec_fields_are_left_out():
    metadata = training_metadata(section("output", trigger=""), FACTS)
    assert "modelspec.trigger_phrase" not in metadata
    assert "modelspec.description" not in metadata


def test_tags_are_counted_in_lower_case():
    folder = Folder(name="a", repeats=9, captions=("Red Hair, SMILE", " red hair ,ÄÖ", "", " , "))
    assert tag_frequency((folder,), "") == {"a": {"red hair": 2, "smile": 1, "äö": 1}}


def test_the_trigger_stands_in_only_where_there_are_no_tags():
    empty = Folder(name="a", repeats=3, captions=("", " , ", ""))
    tagged = Folder(name="b", repeats=1, captions=("dog",))
    assert tag_frequency((empty,), "momo") == {"a": {"momo": 3}}
    assert tag_frequency((empty, tagged), "momo") == {"a": {}, "b": {"dog": 1}}
    assert tag_frequency((empty,), "") == {"a": {}}


@pytest.mark.parametrize("word", ["tag number", '标 "q" \\'])
def test_a_hundred_thousand_tags_leave_the_header_readable(word):
    captions = [", ".join(f"{word} {n}" for n in range(i, i + 100)) for i in range(0, 100_000, 100)]
    folder = Folder(name="1_a", repeats=1, captions=("often", "often", *captions))
    metadata = training_metadata(RECIPE, replace(FACTS, folders=(folder,)))
    written = metadata["ss_tag_frequency"]
    in_header = len(json.dumps(written))
    assert TAG_LIMIT - 100 < in_header < TAG_LIMIT + 100
    kept = json.loads(written)["1_a"]
    assert next(iter(kept)) == "often"  # the most frequent come first and are never dropped
    assert kept["often"] == 2
    assert len(header_bytes({}, metadata)) < 2 * TAG_LIMIT + 10_000


def test_one_endless_tag_does_not_push_the_others_out():
    captions = ("x" * 300_000, "x" * 300_000, "dog")
    assert tag_frequency((Folder(name="a", repeats=1, captions=captions),), "") == {"a": {"dog": 1}}


def sdxl_tensors(frozen) -> dict[str, torch.Tensor]:
    """Those of the largest file: SDXL with all convolutions at rank 128, without their bytes."""
    tensors = {}
    for key, row in frozen("sdxl").items():
        shapes = {"down": (128, *row.down[1:]), "up": (row.up[0], 128, *row.up[2:])}
        for name, shape in shapes.items():
            tensors[f"{key}.lora_{name}.weight"] = torch.empty(shape, device="meta").half()
        tensors[f"{key}.alpha"] = torch.empty((), device="meta").half()
    return tensors


@pytest.mark.parametrize("letter", ["x", "犬", '"', "\\"])
def test_the_header_stays_readable_with_thousands_of_everything(frozen, caplog, letter):
    """ComfyUI shows no header of 1 MiB or more."""
    captions = [f"{letter}{number}" for number in range(100_000)]
    folders = tuple(
        Folder(
            name=f"{number}_{letter * 200}",
            repeats=1,
            captions=(letter, "", ", ".join(captions)) if number == 4321 else (letter,),
        )
        for number in range(5000)
    )
    buckets = tuple((512 + n, 512, 2 if n == 3210 else 1) for n in range(4000))
    facts = replace(FACTS, family="sdxl", folders=folders, buckets=buckets)
    metadata = training_metadata(section("output", comment="😀" * 20_000), facts)
    assert len(header_bytes(sdxl_tensors(frozen), metadata)) < 1 << 20
    directories = json.loads(metadata["ss_dataset_dirs"])
    (dataset,) = json.loads(metadata["ss_datasets"])
    assert 10 < len(directories) < 5000
    assert list(directories) == [subset["image_dir"] for subset in dataset["subsets"]]
    assert set(json.loads(metadata["ss_tag_frequency"])) == set(directories)
    # the largest are there, in their own order, and nothing of the totals is lost
    assert list(directories)[-1] == folders[4321].name
    shown = json.loads(metadata["ss_bucket_info"])["buckets"]
    assert shown["3210"] == {"resolution": [3722, 512], "count": 2}
    assert metadata["ss_num_train_images"] == "5002"
    assert metadata["ss_max_bucket_reso"] == "4511"
    assert f"names {len(directories)} folders; {5000 - len(directories)} more" in caplog.text
    assert f"names {len(shown)} buckets; {4000 - len(shown)} more" in caplog.text
    assert " tags; " in caplog.text


def test_no_room_is_wasted(caplog):
    """The limits are bytes as they stand in the header, escapes and all."""
    folders = tuple(Folder(name=f"{n}_{'犬' * 30}", repeats=1, captions=("",)) for n in range(1000))
    buckets = tuple((64 * n, 64, 1) for n in range(1, 1001))
    few = header_bytes({}, training_metadata(RECIPE, replace(FACTS, folders=())))
    many = replace(FACTS, folders=folders, buckets=buckets)
    metadata = training_metadata(section("output", trigger=""), many)
    room = FOLDER_LIMIT + 2 * BUCKET_LIMIT
    assert room - 2000 < len(header_bytes({}, metadata)) - len(few) < room
    assert "tags" not in caplog.text


def test_nothing_is_left_out_of_a_usual_dataset(caplog):
    folders = tuple(
        Folder(name=f"10_subject {n}", repeats=10, captions=tuple(map(str, range(50))))
        for n in range(100)
    )
    metadata = training_metadata(RECIPE, replace(FACTS, folders=folders))
    assert len(json.loads(metadata["ss_dataset_dirs"])) == 100
    assert sum(map(len, json.loads(metadata["ss_tag_frequency"]).values())) == 5000
    assert caplog.text == ""


def test_names_in_another_encoding_can_be_written():
    """Archives unpacked on Linux leave file names that are no UTF-8: lone surrogates in Python."""
    bad = os.fsdecode(b"1_\xff") if os.name == "posix" else "1_\udcff"
    folders = (
        Folder(name=bad, repeats=1, captions=(f"{bad}, dog",)),
        Folder(name="1_\udcfe", repeats=2, captions=("cat",)),
        Folder(name="1_犬", repeats=1, captions=("",)),
    )
    facts = replace(FACTS, base_file=bad, vae_file=bad, output_name=bad, folders=folders)
    metadata = training_metadata(RECIPE, facts)
    assert b"1_?" in header_bytes({}, metadata)
    assert metadata["ss_sd_model_name"] == metadata["ss_output_name"] == "1_?"
    directories = json.loads(metadata["ss_dataset_dirs"])
    assert list(directories) == ["1_?", "1_? (2)", "1_犬"]
    assert directories["1_? (2)"]["n_repeats"] == 2
    tags = json.loads(metadata["ss_tag_frequency"])
    assert tags == {"1_?": {"1_?": 1, "dog": 1}, "1_? (2)": {"cat": 1}, "1_犬": {}}
    assert "\\ud" not in "".join(metadata.values())
