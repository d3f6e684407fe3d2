"""Every setting explains itself in two languages and checks itself by what it says."""

import re
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from lora_loop.core.config import (
    BaseConfig,
    DatasetConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    PreviewConfig,
    Recipe,
    TrainingConfig,
    describe,
    section_name,
    sections,
)
from lora_loop.core.errors import ConfigError

ALL = [(name, item) for name, cls in sections().items() for item in describe(cls)]
IDS = [f"{name}.{item.name}" for name, item in ALL]


@pytest.mark.parametrize(("name", "item"), ALL, ids=IDS)
def test_words_in_both_languages(name, item):
    for text in (item.label, item.help, *item.choices.values()):
        assert text.en.strip()
        assert text.zh.strip()
    assert re.search("[\u4e00-\u9fff]", item.help.zh)
    assert not re.search("[\u4e00-\u9fff]", item.help.en)
    assert item.help.en.endswith(".")


@pytest.mark.parametrize(("name", "cls"), sections().items())
def test_every_field_is_described_and_choices_equal_the_type(name, cls):
    assert section_name(cls) == name
    assert [item.name for item in describe(cls)] == [field.name for field in fields(cls)]
    hints = get_type_hints(cls)
    for item in describe(cls):
        if item.type == "choice":
            assert tuple(item.choices) == get_args(hints[item.name])


def test_what_a_form_learns_about_rank():
    rank = next(item for item in describe(NetworkConfig) if item.name == "rank")
    assert (rank.type, rank.default, rank.low, rank.high) == ("int", 16, 1, 1024)
    assert not rank.required
    folder = describe(DatasetConfig)[0]
    assert (folder.name, folder.required, folder.default) == ("folder", True, None)


@pytest.mark.parametrize("value", [0, -1, 1025, 16.0, "16", True, None, float("nan"), [16]])
def test_rank_refuses(value):
    with pytest.raises(ConfigError, match=r"^network\.rank is .*whole number from 1 to 1024$"):
        NetworkConfig(rank=value)


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "16", False, 10**400])
def test_alpha_refuses(value):
    with pytest.raises(ConfigError, match=r"^network\.alpha is .*a number"):
        NetworkConfig(alpha=value)


@pytest.mark.parametrize(("value", "good"), [(1, True), (1024, True), (1023, True)])
def test_rank_accepts_its_ends(value, good):
    assert NetworkConfig(rank=value).rank == value


def test_whole_number_for_float_becomes_float():
    config = NetworkConfig(alpha=8)
    assert isinstance(config.alpha, float)
    assert config == NetworkConfig(alpha=8.0)


@pytest.mark.parametrize("value", [0, 64, 512, 768, 2048])
def test_resolution_accepts(value):
    assert DatasetConfig(folder="x", resolution=value).resolution == value


@pytest.mark.parametrize("value", [-64, 8, 63, 100, 2056, 64.0])
def test_resolution_refuses(value):
    with pytest.raises(ConfigError, match=r"^dataset\.resolution is .*or 0 \(the base model's own"):
        DatasetConfig(folder="x", resolution=value)


def test_choice_names_what_there_is():
    with pytest.raises(ConfigError, match=r'preview.sampler is "heun"; it must be one of'):
        PreviewConfig(sampler="heun")  # pyright: ignore[reportArgumentType]


def test_switch_refuses_a_number():
    with pytest.raises(ConfigError, match=r"network\.unet is 1; it must be true or false"):
        NetworkConfig(unet=1)  # pyright: ignore[reportArgumentType]


def test_list_of_texts():
    assert PreviewConfig(prompts=["a", "红色"]).prompts == ("a", "红色")  # pyright: ignore
    with pytest.raises(ConfigError, match=r"preview\.prompts is \"a cat\"; it must be a list"):
        PreviewConfig(prompts="a cat")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"preview\.prompts\[1\] is 3; it must be text"):
        PreviewConfig(prompts=("a", 3))  # pyright: ignore[reportArgumentType]


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ConfigError) as error:
        OptimizerConfig(name="x" * 5000)  # pyright: ignore[reportArgumentType]
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 20_001])
def test_text_that_is_no_text(text):
    with pytest.raises(ConfigError, match=r"^output\.comment"):
        OutputConfig(comment=text)


@pytest.mark.parametrize("path", ["", "  ", "a\nb", "a\tb"])
def test_paths_that_are_none(path):
    for make in (
        lambda: BaseConfig(checkpoint=path),
        lambda: DatasetConfig(folder=path),
        lambda: OutputConfig(folder=path),
    ):
        with pytest.raises(ConfigError, match=r"(checkpoint|folder) is "):
            make()


@pytest.mark.parametrize(
    "name",
    [
        "my_lora",
        "Mein schönes Lora",
        "我的模型 v2",
        "a.b.c",
        "con_man",
        "CONSOLE",
        "x" * 120,
        "猫" * 66,
        "emoji 🦊",
        "(v1) [x], & 'y'",
    ],
)
def test_names_that_are_good(name):
    assert OutputConfig(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "a/b",
        "a\\b",
        "../up",
        "C:evil",
        "what?",
        "a\x07b",
        "a\u0085b",
        "line\nbreak",
        "CON",
        "con.txt",
        "nul .safetensors",
        "Com1",
        "LPT¹",
        "dot.",
        "space ",
        " space",
        "x" * 121,
        "猫" * 67,
        "\ud800",
    ],
)
def test_names_that_are_bad(name):
    with pytest.raises(ConfigError, match=r"^output\.name is "):
        OutputConfig(name=name)


@pytest.mark.parametrize("extension", ["", "txt", ".", "./txt", ".t*t", "..\\x"])
def test_caption_extension_refuses(extension):
    with pytest.raises(ConfigError, match=r"dataset\.caption_extension"):
        DatasetConfig(folder="x", caption_extension=extension)


def test_presets_are_named_once():
    with pytest.raises(ConfigError, match=r'preview.presets names "ALL" 2 times'):
        PreviewConfig(presets=("ALL", "NONE", "ALL"))
    with pytest.raises(ConfigError, match=r"preview.presets is empty"):
        PreviewConfig(presets=())


def test_seed_spans_what_hosts_use():
    assert TrainingConfig(seed=2**64 - 1).seed == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match=r"training\.seed"):
            TrainingConfig(seed=seed)


def test_contradictions_inside_a_section():
    with pytest.raises(ConfigError, match="both false"):
        NetworkConfig(unet=False, text_encoder=False)
    with pytest.raises(ConfigError, match="pure noise"):
        BaseConfig(prediction="epsilon", zero_terminal_snr="yes")
    with pytest.raises(ConfigError, match=r"bucket_step is 128 but dataset\.resolution is 64"):
        DatasetConfig(folder="x", resolution=64, bucket_step=128)


def test_defaults_are_the_ones_for_results():
    recipe = Recipe(dataset=DatasetConfig(folder="x"))
    assert recipe.dataset.caption_extension == ".txt"
    assert recipe.network.alpha == recipe.network.rank
    assert recipe.objective.min_snr_gamma == 5.0
    assert recipe.output.precision == "fp16"
