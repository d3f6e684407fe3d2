import json
import logging
from dataclasses import replace

import pytest

from lora_loop.core.config import DatasetConfig, NetworkConfig, Recipe
from lora_loop.core.errors import ConfigError
from lora_loop.extension.presets import SHIPPED, presets, read, save

RECIPE = Recipe(dataset=DatasetConfig(folder="/pictures"))


def test_the_shipped_ones_in_their_order(tmp_path):
    found = presets(tmp_path / "none")
    assert [*found] == ["character", "style", "object", "low-memory", "quick-look"]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_each_makes_a_valid_recipe_and_explains_itself(path):
    preset = read(path)
    recipe = preset.apply(RECIPE)
    assert recipe.dataset == RECIPE.dataset
    assert recipe.base == RECIPE.base
    assert recipe.output == RECIPE.output
    assert recipe != RECIPE or path.stem == "character"
    assert len(preset.help.en) > 80
    assert len(preset.help.zh) > 30


def test_users_own_come_back_and_leave_the_place_alone(tmp_path):
    mine = replace(RECIPE, network=NetworkConfig(rank=5, alpha=5.0))
    save(tmp_path, "mine", mine)
    own = presets(tmp_path)["own/mine"]
    other = Recipe(dataset=DatasetConfig(folder="/others"))
    assert own.apply(other) == replace(other, network=mine.network)


@pytest.mark.parametrize("name", ["../mine", "a/b", "", "CON"])
def test_names_with_folders_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="preset's name"):
        save(tmp_path, name, RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_left_out_and_told(tmp_path, caplog):
    for name, content in (("a", "{"), ("b", "[]"), ("c", json.dumps({"label": {"en": "x"}}))):
        (tmp_path / f"{name}.json").write_text(content)
    with caplog.at_level(logging.WARNING, "lora_loop"):
        assert len(presets(tmp_path)) == 5
    assert len(caplog.records) == 3


def test_settings_that_do_not_exist_are_named(tmp_path):
    content = {
        "label": {"en": "x", "zh": "x"},
        "help": {"en": "", "zh": ""},
        "settings": {"network": {"rnak": 4}},
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="did you mean 'rank'"):
        read(path).apply(RECIPE)
