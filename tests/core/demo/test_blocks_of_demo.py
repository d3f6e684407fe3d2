"""What the studies say of the demo's own LoRA, where its making says what is true."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from lora_loop.core import session, study
from lora_loop.core.adapters.applied import AppliedNetwork
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config.recipe import NetworkConfig, TrainingConfig
from lora_loop.core.demo.run import GUIDANCE, demo_recipe
from lora_loop.core.demo.subject import subject_prompts
from lora_loop.core.models.networks import open_applied
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

pytestmark = pytest.mark.slow

CHOSEN = {"IN02", "OUT08"}
UNSEEN = 0.1  # how far seeds that nobody has seen may be from a promised share
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


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The base, and the demo's own network."""
    recipe = demo_recipe(tmp_path_factory.mktemp("demo"))
    base = session.open_base(recipe.base, recipe.memory, torch.device("cpu"))
    return base, session.run(session.make_plan(recipe), base).network


def head(picture: Image.Image) -> Image.Image:
    """A detector of the mascot's head: white where it is."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    body = (np.minimum(green, blue) - red > 70) & (np.minimum(green, blue) > 120)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(body, iterations=2))
    return Image.fromarray(ndimage.binary_dilation(closed, iterations=3).astype("uint8") * 255)


def test_a_suggestion_keeps_what_it_promised(demo):
    base, network = demo
    prompts = tuple(Prompt(text) for text in subject_prompts()[:3])
    part = study.Part(find=head)
    request = study.SuggestionRequest(prompts=prompts, inside=0.6, outside=0.8, settings=SETTINGS)
    found = study.suggest_weights(base, network, request, part)
    assert found.held
    assert found.reached
    # drawn anew, with seeds that neither the search nor its own proof has seen
    pictures, heads = [], None
    with network.attached(base.parts):
        for weights in ("NONE", "ALL", found.weights.text()):
            network.set_strength(block_weights=session.BlockWeights.parse(weights))
            drawn = draw(base, prompts, replace(SETTINGS, seed=50))
            pictures.append(np.stack([np.asarray(picture, float) for picture in drawn]))
            if weights == "ALL":
                heads = np.stack([np.asarray(head(picture)) > 0 for picture in drawn])
    assert heads is not None
    none, whole, chosen = pictures
    for where, promised in ((heads, found.promised.inside), (~heads, found.promised.outside)):
        change = (whole - none)[where]
        share = float((change * (chosen - none)[where]).sum() / (change**2).sum())
        assert abs(share - promised) < UNSEEN


def test_measures_rank_the_blocks_first_that_were_trained(planted):
    measures = study.measure_blocks(*planted)
    assert len(measures.blocks) > 10
    assert {found.block for found in measures.ranked()[: len(CHOSEN)]} == CHOSEN


def test_pictures_rank_the_blocks_first_that_were_trained(planted):
    prompts = tuple(Prompt(text) for text in subject_prompts()[:4])
    request = study.AnalysisRequest(prompts=prompts, value=0.0, settings=SETTINGS)
    found = study.analyze_blocks(*planted, request)
    assert {effect.block for effect in found.ranked()[: len(CHOSEN)]} == CHOSEN
