"""Recipes: strict reading, exact writing, and what cannot be true together."""

import json
from dataclasses import replace

import pytest

from lora_loop.core.config import (
    BaseConfig,
    DatasetConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimizerConfig,
    OutputConfig,
    PreviewConfig,
    Recipe,
    from_mapping,
    to_mapping,
)
from lora_loop.core.errors import ConfigError, FileError


def recipe(**changes) -> Recipe:
    return Recipe(**{"dataset": DatasetConfig(folder="pictures"), **changes})


def parse(**groups) -> Recipe:
    return Recipe.from_json(json.dumps({"dataset": {"folder": "x"}, **groups}))


def test_round_trip_through_json():
    full = recipe(
        network=NetworkConfig(rank=3, alpha=1.5, text_encoder=False),
        preview=PreviewConfig(prompts=("a red fox", '引号 " \\ 🦊\n'), every=7),
        output=OutputConfig(name="狐狸", comment="two\nlines"),
    )
    again = Recipe.from_json(full.to_json())
    assert again == full
    assert again.to_json() == full.to_json()
    assert from_mapping(Recipe, to_mapping(full)) == full


def test_mapping_holds_plain_values_only():
    assert json.loads(recipe().to_json()) == to_mapping(recipe())
    assert to_mapping(recipe())["preview"]["prompts"] == []


def test_what_is_left_out_takes_its_default():
    assert parse() == recipe(dataset=DatasetConfig(folder="x"))
    assert parse(network={"rank": 4}).network == NetworkConfig(rank=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"dataset": {"folder": "x"}, "network": {"rnak": 4}}',
            r"recipe\.network: no setting 'rn",
        ),
        ('{"dataset": {"folder": "x"}, "network": {"rnak": 4}}', "did you mean 'rank'?"),
        ('{"dataset": {"folder": "x"}, "rank": 4}', "recipe: no setting 'rank'; did you mean 'net"),
        ('{"dataset": {"folder": "x"}, "netwrok": {}}', "did you mean 'network'?"),
        ('{"dataset": {"folder": "x"}, "zzz": 1}', "there are schema, base, dataset"),
        ("{}", r"recipe\.dataset: the setting 'folder' is missing"),
        ('{"dataset": {}}', r"recipe\.dataset: the setting 'folder' is missing"),
        ('{"dataset": null}', r"recipe\.dataset is null"),
        ('{"dataset": {"folder": "x"}, "network": [16]}', r"recipe\.network is \[16\]"),
        ('{"dataset": {"folder": null}}', r"dataset\.folder is null; it must be text"),
        ('{"dataset": {"folder": "x"}, "network": {"alpha": NaN}}', "NaN"),
        (
            '{"dataset": {"folder": "x"}, "network": {"alpha": 1e999}}',
            r"network\.alpha is Infinity",
        ),
        ('{"dataset": {"folder": "x"}, "network": {"rank": 1, "rank": 2}}', "'rank' twice"),
        ('{"dataset": {"folder": "x"}, "dataset": {"folder": "y"}}', "'dataset' twice"),
        ('{"dataset": {"folder": "x"},}', "not valid JSON: .* in line 1"),
        ("", "not valid JSON"),
        ("[]", "recipe is \\[\\]; it must be a group"),
        ('"x"', "it must be a group"),
        ("[" * 200_000, "not usable JSON"),
        ('{"training": {"seed": ' + "9" * 5000 + "}}", "."),
        ('{"schema": 2, "new": true}', "from a newer LoRA Loop"),
        ('{"schema": 0, "dataset": {"folder": "x"}}', "schema is 0"),
        ('{"schema": "1", "dataset": {"folder": "x"}}', 'schema is "1"'),
        ('{"schema": true, "dataset": {"folder": "x"}}', "schema is true"),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.from_json(text)


def test_sections_must_be_of_their_class():
    with pytest.raises(ConfigError, match=r"recipe.network is .*; it must be a NetworkConfig"):
        recipe(network={"rank": 4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": OptimizerConfig(unet_lr=0)}, "optimizer.unet_lr is 0 but network.unet is"),
        ({"optimizer": OptimizerConfig(text_encoder_lr=0)}, "optimizer.text_encoder_lr is 0 but"),
        (
            {
                "base": BaseConfig(prediction="v", zero_terminal_snr="yes"),
                "objective": ObjectiveConfig(noise_offset=0.05),
            },
            "objective.noise_offset is 0.05 but",
        ),
        ({"preview": PreviewConfig(every=50)}, "preview.every is 50 but preview.prompts is empty"),
    ],
)
def test_contradictions_between_sections(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_lr_of_a_part_that_is_off_may_be_zero():
    off = recipe(
        network=NetworkConfig(text_encoder=False), optimizer=OptimizerConfig(text_encoder_lr=0)
    )
    assert off.optimizer.text_encoder_lr == 0


def test_relative_paths_start_at_the_recipe(tmp_path):
    folder = tmp_path / "some where" / "深い"
    folder.mkdir(parents=True)
    path = folder / "recipe.json"
    recipe(base=BaseConfig(checkpoint="models/sd.safetensors")).save(path)
    loaded = Recipe.load(path)
    assert loaded.dataset.folder == str(folder / "pictures")
    assert loaded.base.checkpoint == str(folder / "models" / "sd.safetensors")
    assert loaded.output.folder == str(folder / "output")


def test_absolute_paths_and_the_embedded_model_stay(tmp_path):
    dataset = DatasetConfig(folder=str(tmp_path / "pictures"))
    full = recipe(dataset=dataset, output=OutputConfig(folder=str(tmp_path / "out")))
    full.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == full


def test_load_from_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    recipe().save(tmp_path / "here" / "r.json")
    monkeypatch.chdir(tmp_path)
    assert Recipe.load("here/r.json").dataset.folder == str(tmp_path / "here" / "pictures")


def test_byte_order_mark_of_windows_editors(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(recipe().to_json(), encoding="utf-8-sig")
    assert Recipe.load(path).network == recipe().network


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (
            b'{"dataset": {"folder": "x"}, "network": {"rank": 0}}',
            r"recipe\.json: network\.rank is 0",
        ),
        (b" " * (5 << 20), "has 5242880 bytes"),
    ],
)
def test_load_names_the_file(tmp_path, content, message):
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        Recipe.load(tmp_path / "missing.json")
    with pytest.raises(FileError, match="cannot be read"):
        Recipe.load(tmp_path)
    with pytest.raises(FileError, match="cannot be written"):
        recipe().save(tmp_path / "missing" / "recipe.json")
    with pytest.raises(FileError, match="cannot be read"):
        Recipe.load("nul\0byte.json")


def test_save_leaves_only_the_file(tmp_path):
    recipe().save(tmp_path / "recipe.json")
    replace(recipe(), network=NetworkConfig(rank=2)).save(tmp_path / "recipe.json")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
    assert Recipe.load(tmp_path / "recipe.json").network.rank == 2
