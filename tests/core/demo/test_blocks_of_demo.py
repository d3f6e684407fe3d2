"""What the studies say of the demo's own LoRA, where its making says what is true."""

import statistics
from dataclasses import replace

import pytest
import torch

from lora_loop.core import session, study
from lora_loop.core.adapters.applied import AppliedNetwork
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config.recipe import NetworkConfig, TrainingConfig
from lora_loop.core.demo.run import GUIDANCE, demo_recipe
from lora_loop.core.demo.subject import subject_prompts
from lora_loop.core.models.networks import open_applied
from lora_loop.core.preview.sampling import DrawSettings, Prompt

pytestmark = pytest.mark.slow

CHOSEN = {"IN02", "OUT08"}
NOISE = 0.5  # of a trained layer's change, relative to the weight
SETTINGS = DrawSettings(steps=12, guidance=GUIDANCE, batch_size=8)


@pytest.fixture(scope="module")
def planted(tmp_path_factory, random_updates):
    """The base, and a network with chosen blocks that were trained and others that are noise."""
    folder = tmp_path_factory.mktemp("planted")
    recipe = replace(
        demo_recipe(folder),
        network=NetworkConfig(rank=16, alpha=16.0, blocks=" ".join(CHOSEN), text_encoder=False),
        training=TrainingConfig(max_steps=120, batch_size=8),
    )
    base = session.open_base(recipe.base, recipe.memory, torch.device("cpu"))
    session.run(session.make_plan(recipe), base)
    trained = open_applied(base, folder / f"{recipe.output.name}.safetensors")
    layers = find_targets(base.parts)
    size = NOISE * statistics.mean(change(trained.updates[p], layers[p]) for p in trained.paths)
    others = {path: layer for path, layer in layers.items() if path not in trained.updates}
    noise = random_updates("lora", others, 1.0)
    for path, update in noise.items():
        up = update.tensors["lora_up.weight"]
        up.mul_(size / change(update, layers[path]))
    return base, AppliedNetwork({**trained.updates, **noise})


def change(update: Update, layer: torch.nn.Module) -> float:
    """The norm of what an update adds, relative to the weight's."""
    weight = layer.get_parameter("weight").detach()
    delta = update.delta(weight)
    assert delta is not None
    return float(delta.norm() / weight.norm())


def test_measures_rank_the_blocks_first_that_were_trained(planted):
    measures = study.measure_blocks(*planted)
    assert len(measures.blocks) > 10
    assert {found.block for found in measures.ranked()[: len(CHOSEN)]} == CHOSEN


def test_pictures_rank_the_blocks_first_that_were_trained(planted):
    prompts = tuple(Prompt(text) for text in subject_prompts()[:4])
    request = study.AnalysisRequest(prompts=prompts, value=0.0, settings=SETTINGS)
    found = study.analyze_blocks(*planted, request)
    assert {effect.block for effect in found.ranked()[: len(CHOSEN)]} == CHOSEN
