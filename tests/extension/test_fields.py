from dataclasses import replace

import pytest

from lora_loop.core.config import DatasetConfig, PreviewConfig, Recipe, TrainingConfig
from lora_loop.core.errors import ConfigError
from lora_loop.extension.fields import all_fields, from_widgets, to_widgets
from lora_loop.extension.words import Words

EN, ZH = Words("en"), Words("zh")
FIELDS = all_fields()
RECIPE = Recipe(
    dataset=DatasetConfig(folder="/pictures"),
    preview=PreviewConfig(prompts=("a cat", "a dog"), seed=2**63 + 1),
    training=TrainingConfig(seed=2**64 - 1),
)


def changed(shown, name, value):
    place = next(place for place, field in enumerate(FIELDS) if field.name == name)
    return [*shown[:place], value, *shown[place + 1 :]]


@pytest.mark.parametrize("say", [EN, ZH])
def test_a_recipe_comes_back_as_it_was(say):
    assert from_widgets(to_widgets(RECIPE, FIELDS, say), FIELDS, say) == RECIPE


def test_every_setting_has_its_words_in_both_languages():
    assert len(FIELDS) >= 40
    for field in FIELDS:
        for say in (EN, ZH):
            assert field.label(say).strip()
            assert field.name in field.help(say)
        assert field.help(EN) != field.help(ZH)
        assert any("\u4e00" <= letter <= "\u9fff" for letter in field.help(ZH))


def test_widgets_give_whole_numbers_as_floats():
    shown = changed(to_widgets(RECIPE, FIELDS, EN), "network.rank", 32.0)
    assert from_widgets(shown, FIELDS, EN).network.rank == 32


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("network.rank", 0.5, "network.rank is 0.5"),
        ("network.rank", None, "network.rank is null"),
        ("training.seed", "seven", 'training.seed is "seven"'),
        ("output.name", "../x", "output.name"),
        ("output.name", "a\0b", "output.name"),
        ("optimizer.unet_lr", "nan", "optimizer.unet_lr"),
        ("lr_schedule.kind", "wavy", 'lr_schedule.kind is "wavy"'),
    ],
)
def test_what_is_wrong_is_named(name, value, words):
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        from_widgets(changed(to_widgets(RECIPE, FIELDS, EN), name, value), FIELDS, EN)


def test_without_a_folder_it_says_where_to_choose_one():
    shown = changed(to_widgets(RECIPE, FIELDS, ZH), "dataset.folder", "")
    with pytest.raises(ConfigError, match="数据集"):
        from_widgets(shown, FIELDS, ZH)


def test_a_fixed_setting_is_not_the_users():
    recipe = from_widgets(
        to_widgets(RECIPE, FIELDS, EN), FIELDS, EN, {"base.checkpoint": "/models/host.safetensors"}
    )
    assert recipe.base == replace(RECIPE.base, checkpoint="/models/host.safetensors")


def test_one_line_is_one_prompt():
    shown = changed(to_widgets(RECIPE, FIELDS, EN), "preview.prompts", " a cat \n\n  a dog\n")
    assert from_widgets(shown, FIELDS, EN).preview.prompts == ("a cat", "a dog")
