import pytest

from lora_loop.core.config import DatasetConfig, Recipe
from lora_loop.core.errors import ConfigError
from lora_loop.extension.again import recipe_of

CURRENT = Recipe(dataset=DatasetConfig(folder="/pictures"))
KOHYA = {
    "ss_network_dim": "8",
    "ss_network_alpha": "4.0",
    "ss_unet_lr": "0.0002",
    "ss_text_encoder_lr": "None",
    "ss_lr_scheduler": "cosine",
    "ss_min_snr_gamma": "5.0",
    "ss_noise_offset": "None",
    "ss_num_epochs": "3",
    "ss_num_batches_per_epoch": "50",
    "ss_max_train_steps": "150",
    "ss_batch_size_per_device": "2",
    "ss_gradient_accumulation_steps": "1",
    "ss_seed": "7",
    "ss_resolution": "(512, 512)",
    "ss_clip_skip": "2",
    "ss_base_model_version": "sd_v1",
    "ss_gradient_checkpointing": "True",
}


def test_a_file_of_another_program():
    recipe = recipe_of(KOHYA, CURRENT)
    assert (recipe.network.rank, recipe.network.alpha) == (8, 4.0)
    assert (recipe.network.unet, recipe.network.text_encoder) == (True, False)
    assert recipe.optimizer.unet_lr == 0.0002
    assert (recipe.training.epochs, recipe.training.max_steps) == (3, 0)
    assert (recipe.training.batch_size, recipe.training.seed) == (2, 7)
    assert (recipe.dataset.resolution, recipe.dataset.folder) == (512, "/pictures")
    assert (recipe.base.clip_skip, recipe.base.prediction) == (2, "auto")
    assert recipe.memory.gradient_checkpointing
    assert recipe.output == CURRENT.output


def test_a_number_of_steps_that_was_set():
    assert recipe_of({**KOHYA, "ss_max_train_steps": "70"}, CURRENT).training.max_steps == 70


def test_a_file_without_settings_says_so():
    with pytest.raises(ConfigError, match="does not say how it was trained"):
        recipe_of({"modelspec.title": "x"}, CURRENT)


@pytest.mark.parametrize("key", ["ss_network_dim", "ss_resolution", "ss_seed"])
def test_an_unreadable_value_is_named(key):
    with pytest.raises(ConfigError, match=key):
        recipe_of({**KOHYA, key: "many"}, CURRENT)


def test_values_that_are_not_trained_with_are_refused():
    with pytest.raises(ConfigError, match=r"network\.rank is 0"):
        recipe_of({**KOHYA, "ss_network_dim": "0"}, CURRENT)
