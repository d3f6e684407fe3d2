"""TrainLoRA on a thin model through a host of the tests' own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_loop.comfy_nodes.analyze_nodes import AnalyzeBlocks
from lora_loop.comfy_nodes.dataset_nodes import LoadDataset
from lora_loop.comfy_nodes.lora_nodes import LoadLoRAForTest, SaveLoRA
from lora_loop.comfy_nodes.recipe_nodes import LoadRecipe, ResumeTraining, SaveRecipe
from lora_loop.comfy_nodes.train_node import TrainLoRA, checkpoint_name
from lora_loop.comfy_nodes.values import Options
from lora_loop.core.errors import CheckpointError, ConfigError, DatasetError, FileError

STEPS = 4
SETTINGS = {
    "name": "momo",
    "rank": 2,
    "alpha": 2.0,
    "unet_lr": 1e-2,
    "text_encoder_lr": 1e-2,
    "epochs": 1,
    "max_steps": STEPS,
    "batch_size": 2,
    "training_seed": 7,
    "gradient_checkpointing": False,
    "start": "resume",
    "incoming_patches": "part of the base",
}


@pytest.fixture
def dataset(pictures):
    return load_dataset(pictures)


def load_dataset(pictures, **changes):
    widgets = {**folder_widgets(LoadDataset), "folder": pictures.parent.name, **changes}
    return LoadDataset().load(**widgets)["result"][0]


def folder_widgets(node):
    required = node.INPUT_TYPES()["required"]
    return {name: spec[1]["default"] for name, spec in required.items()}


def train(dataset, options=None, **changes):
    given = {**SETTINGS, **changes}
    found = TrainLoRA().train("model", "clip", "vae", dataset, options=options, **given)
    return found["result"]


def steps_shown(host):
    return sum(len(data.get("losses", [])) for event, data in host.shown.events if event == "train")


def test_a_training_ends_with_a_lora_in_memory_and_in_a_file(host, dataset):
    lora, model, clip, plot, report = train(dataset)
    assert lora.name == "momo"
    assert lora.path.parent == host.folder("output") / "lora_loop"
    written = load_file(lora.path)
    assert written.keys() == lora.tensors.keys()
    assert all(torch.equal(written[name], lora.tensors[name]) for name in written)
    assert model[2] is lora.tensors  # MODEL and CLIP come out patched with these very tensors
    assert clip[2] is lora.tensors
    assert plot.shape[0] == 1
    assert plot.shape[3] == 3
    assert str(lora.path) in report
    assert steps_shown(host) == STEPS
    assert host.shown.bars[-2] == (STEPS, STEPS)


def test_equal_settings_are_not_trained_twice(host, dataset):
    first, *_ = train(dataset)
    host.shown.events.clear()
    again, *_, report = train(dataset)
    assert again.path == first.path
    assert steps_shown(host) == 0
    assert "trained before" in report
    assert all(torch.equal(again.tensors[name], first.tensors[name]) for name in first.tensors)


def test_previews_do_not_train_again_but_settings_do(host, dataset):
    first, *_ = train(dataset)
    samples = Options({"preview": {"prompts": ["momo"], "seed": 5, "every": 2, "steps": 1}})
    assert train(dataset, samples)[0].path == first.path
    renamed, *_ = train(dataset, name="other")
    assert (renamed.name, renamed.path) == ("other", first.path)
    assert train(dataset, unet_lr=5e-3)[0].path != first.path
    assert train(load_dataset_again(host), batch_size=1)[0].path != first.path


def load_dataset_again(host):
    return load_dataset(host.folder("input") / "momo" / "2_momo")


def test_a_changed_picture_trains_again(host, dataset, pictures):
    first, *_ = train(dataset)
    (pictures / "0.txt").write_text("momo on a hill", encoding="utf-8")
    assert train(load_dataset(pictures))[0].path != first.path


def test_restart_trains_anew_beside_the_first(host, dataset):
    first, *_ = train(dataset)
    other, *_ = train(dataset, start="restart")
    assert other.path != first.path
    assert all(torch.equal(other.tensors[name], first.tensors[name]) for name in first.tensors)


def test_cancel_saves_everything_and_resume_ends_as_if_it_had_not_been(host, dataset):
    straight, *_ = train(dataset)
    straight.path.unlink()
    host.cancel_after = host.asked + 6  # in the middle of the steps
    with pytest.raises(host.cancelled):
        train(dataset)
    folder = host.folder("output") / "lora_loop"
    stopped = [path for path in folder.glob("momo-*-step*.safetensors") if "state" not in path.name]
    assert len(stopped) == 1
    done = int(stopped[0].stem.rpartition("step")[2])
    assert 0 < done < STEPS
    host.shown.events.clear()
    resumed, *_ = train(dataset)
    assert steps_shown(host) == STEPS - done
    for name, tensor in straight.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor)


def test_cancel_while_a_sample_is_drawn_saves_everything(host, dataset):
    samples = Options({"preview": {"prompts": ["momo"], "every": 2, "steps": 1}})

    def cancelled(*_arguments):
        raise host.cancelled

    host.draw_live = cancelled
    with pytest.raises(host.cancelled):
        train(dataset, samples)
    folder = host.folder("output") / "lora_loop"
    assert any("step00000002" in path.name for path in folder.glob("*.safetensors"))


def test_samples_on_the_way_are_shown(host, dataset):
    samples = Options({"preview": {"prompts": ["momo", "hill"], "every": 2, "steps": 1}})
    train(dataset, samples)
    assert host.live_draws == STEPS // 2
    assert [picture.size for picture in host.shown.pictures[:1]] == [(128, 64)]


def test_an_interrupted_training_is_found_and_gone_on_with(host, dataset):
    host.cancel_after = host.asked + 6
    with pytest.raises(host.cancelled):
        train(dataset)
    names = ResumeTraining.INPUT_TYPES()["required"]["training"][0]
    assert len(names) == 1
    options, found = ResumeTraining().resume(names[0])
    lora, *_ = train(found, options, rank=64, max_steps=1, name="other")
    assert lora.name == "momo"  # all settings come from the recipe
    assert lora.path.stem == names[0]
    assert ResumeTraining.INPUT_TYPES()["required"]["training"][0] == [""]
    with pytest.raises(FileError, match="no interrupted training"):
        ResumeTraining().resume(names[0])


def test_recipes_go_out_and_in(host, dataset):
    options = Options({"network": {"rank": 3, "alpha": 3.0}, "objective": {"min_snr_gamma": 1.0}})
    path = SaveRecipe().save(dataset, "mine", options)["result"][0]
    assert json.loads(Path(path).read_text(encoding="utf-8"))["network"]["rank"] == 3
    loaded, found = LoadRecipe().load("mine.json")
    assert found.config == dataset.config
    assert loaded.values["network"]["rank"] == 3
    lora, *_ = train(found, loaded)
    assert next(t for n, t in lora.tensors.items() if "lora_down" in n).shape[0] == 3
    with pytest.raises(FileError, match="no recipe"):
        LoadRecipe().load("../mine.json")


@pytest.mark.parametrize("name", ["../momo", "a/b", "", "CON", "momo."])
def test_a_name_with_path_parts_is_refused(host, dataset, name):
    with pytest.raises(ConfigError, match=r"output\.name"):
        train(dataset, name=name)
    lora_folder = list(host.lora_folder().iterdir())
    assert lora_folder == []


def test_missing_parts_and_unknown_families_are_named(host, dataset):
    with pytest.raises(CheckpointError, match="VAE is empty"):
        TrainLoRA().train("model", "clip", None, dataset, **SETTINGS)
    with pytest.raises(CheckpointError, match="kind Flux"):
        TrainLoRA().train("flux", "clip", "vae", dataset, **SETTINGS)


def test_a_wrong_setting_is_named_before_the_model_is_touched(host, dataset):
    with pytest.raises(ConfigError, match=r"optimizer\.unet_lr is 0"):
        train(dataset, unet_lr=0.0)
    assert host.borrowed == 0


def test_folders_outside_and_empty_ones_are_refused(host, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    widgets = folder_widgets(LoadDataset)
    with pytest.raises(DatasetError, match="lies outside"):
        LoadDataset().load(**{**widgets, "folder": str(outside)})
    with pytest.raises(DatasetError, match="lies outside"):
        LoadDataset().load(**{**widgets, "folder": "../elsewhere"})
    (host.folder("input") / "empty").mkdir()
    with pytest.raises(DatasetError):
        LoadDataset().load(**{**widgets, "folder": "empty"})


def test_the_dataset_changes_with_its_files_alone(host, pictures):
    widgets = {**folder_widgets(LoadDataset), "folder": "momo"}
    before = LoadDataset.IS_CHANGED(**widgets)
    assert LoadDataset.IS_CHANGED(**widgets) == before
    (pictures / "0.txt").write_text("momo, changed", encoding="utf-8")
    assert LoadDataset.IS_CHANGED(**widgets) != before


def test_the_checkpoint_is_found_along_the_links():
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
        "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "x"}},
        "3": {"class_type": "LoraLoopTrainLoRA", "inputs": {"model": ["2", 0]}},
        "4": {"class_type": "Loop", "inputs": {"model": ["4", 0]}},
    }
    assert checkpoint_name(prompt, "3") == "base.safetensors"
    assert checkpoint_name(prompt, "4") == ""
    assert checkpoint_name({}, None) == ""


def test_a_saved_lora_is_in_the_list_and_never_overwritten(host, dataset):
    lora, *_ = train(dataset)
    save = {"precision": "fp16", "metadata": True, "trigger": "momo"}
    paths = [SaveLoRA().save(lora, "momo", **save)["result"][0] for _ in range(2)]
    assert host.lora_names() == ["momo-2.safetensors", "momo.safetensors"]
    loaded, metadata = LoadLoRAForTest().load("momo.safetensors")
    assert "modelspec.trigger_phrase: momo" in metadata
    assert loaded.trigger == "momo"
    for name, tensor in lora.tensors.items():
        assert torch.allclose(loaded.tensors[name].float(), tensor, atol=1e-3)
    assert paths[0] != paths[1]
    bare = SaveLoRA().save(lora, "bare", "fp32", metadata=False)["result"][0]
    assert not any(
        key.startswith("ss_")
        for key in LoadLoRAForTest().load("bare.safetensors")[0].metadata
        if key != "ss_output_name"
    )
    assert load_file(bare).keys() == lora.tensors.keys()
    with pytest.raises(ConfigError, match="name is"):
        SaveLoRA().save(lora, "a/b", **save)


def test_the_blocks_of_a_trained_lora_are_measured(host, dataset):
    lora, *_ = train(dataset)
    widgets = {"prompts": "momo", "samples": 1, "language": "en"}
    chart, text = AnalyzeBlocks().analyze("model", "clip", "vae", lora, **widgets)["result"]
    assert chart.shape[3] == 3
    assert {line.split()[0] for line in text.splitlines()[1:]} >= {"BASE", "IN01", "M00", "OUT11"}
    host.cancel_after = host.asked
    with pytest.raises(host.cancelled):
        AnalyzeBlocks().analyze("model", "clip", "vae", lora, **widgets)
