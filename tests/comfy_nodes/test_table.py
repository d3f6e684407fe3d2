import inspect

import pytest

from lora_loop.comfy_nodes import inputs, option_nodes, table
from lora_loop.core.config import sections

IDS = {
    "LoraLoopLoadDataset",
    "LoraLoopPrepareDataset",
    "LoraLoopCaptionDataset",
    "LoraLoopCaptionerOptions",
    "LoraLoopTrainLoRA",
    "LoraLoopSaveLoRA",
    "LoraLoopBlockWeightPreview",
    "LoraLoopGridAxes",
    "LoraLoopLoadLoRAForTest",
    "LoraLoopApplyBlockWeights",
    "LoraLoopAnalyzeBlocks",
    "LoraLoopBakeLoRA",
    "LoraLoopLoadRecipe",
    "LoraLoopSaveRecipe",
    "LoraLoopResumeTraining",
    "LoraLoopNetworkOptions",
    "LoraLoopOptimizerOptions",
    "LoraLoopScheduleOptions",
    "LoraLoopObjectiveOptions",
    "LoraLoopMemoryOptions",
    "LoraLoopSamplesOptions",
    "LoraLoopResumeOptions",
}
"""Saved workflows name these: one that goes away breaks them."""


def test_no_node_id_goes_away(host):
    assert set(table.node_classes()) >= IDS


def test_every_node_has_a_name_in_both_languages(host):
    titles = table.titles()
    assert titles.keys() == table.node_classes().keys() == table.display_names().keys()
    assert all(text.en and text.zh for text in titles.values())


@pytest.mark.parametrize("name", sorted(IDS))
def test_a_node_is_what_comfyui_takes(host, name):
    node = table.node_classes()[name]
    declared = node.INPUT_TYPES()
    links = {**declared["required"], **declared.get("optional", {})}
    method = getattr(node, node.FUNCTION)
    parameters = inspect.signature(method).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for given in (*links, *declared.get("hidden", {})):
        assert takes_any or given in parameters
    for needed, parameter in parameters.items():
        if needed != "self" and parameter.default is inspect.Parameter.empty:
            assert needed in links or parameter.kind is inspect.Parameter.VAR_KEYWORD
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert node.DESCRIPTION
    for kind, *options in links.values():
        assert isinstance(kind, (str, list))
        assert not options or isinstance(options[0], dict)


def test_every_setting_of_the_recipe_has_exactly_one_place(host):
    placed = [*option_nodes.TRAIN_PLACES, *option_nodes.ELSEWHERE]
    for places in option_nodes.groups().values():
        placed += places
    of_other_nodes = {"base", "dataset", "caption"}
    wanted = [
        place
        for section in sections()
        if section not in of_other_nodes
        for place in inputs.section_places(section)
    ]
    assert sorted(placed) == sorted(wanted)
    assert len(set(placed)) == len(placed)


def test_no_widget_is_called_seed(host):
    for node in table.node_classes().values():
        declared = node.INPUT_TYPES()
        assert not {"seed", "noise_seed"} & set(declared["required"])


def test_widgets_keep_the_limits_of_the_settings(host):
    widgets = table.node_classes()["LoraLoopTrainLoRA"].INPUT_TYPES()["required"]
    kind, options = widgets["rank"]
    assert kind == "INT"
    assert (options["default"], options["min"], options["max"]) == (16, 1, 1024)
    assert widgets["max_steps"][1]["min"] == 0  # which means: by epochs
    assert widgets["unet_lr"][1]["step"] == 1e-5
    assert widgets["training_seed"][1]["max"] == 2**64 - 1


@pytest.mark.parametrize(
    ("default", "step"), [(1e-4, 1e-5), (0.0, 0.01), (1.0, 0.01), (0.05, 5e-3)]
)
def test_steps_of_numbers(default, step):
    assert inputs.float_step(default) == pytest.approx(step, rel=0.9)
