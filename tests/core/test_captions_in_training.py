"""Long and weighted captions: what the recipe says of them reaches the text encoder."""

from dataclasses import replace

import pytest
import torch

from lora_loop.core import session
from lora_loop.core.files.network_file import read_network
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.models.text import TextOptions

CPU = torch.device("cpu")
LONG = "momo, (a red hat:1.4), " + "on a mat, " * 20 + "picture {}"  # 93 tokens


@pytest.fixture
def long(recipe, tmp_path, write_pictures):
    folder = write_pictures(tmp_path / "pictures", [(64, 64), (96, 64)], LONG)
    return replace(
        recipe,
        dataset=replace(recipe.dataset, folder=str(folder)),
        training=replace(recipe.training, max_steps=2),
    )


@pytest.mark.parametrize("text_encoder", [True, False])
def test_captions_are_read_as_the_recipe_says(long, monkeypatch, text_encoder):
    dataset = replace(long.dataset, caption_tokens=150, weighted_captions=True)
    network = replace(long.network, text_encoder=text_encoder)
    recipe = replace(long, dataset=dataset, network=network)
    told: list[tuple[int, ...]] = []
    real = BaseModel.predict

    def watched(self, xt, timestep, condition, time_ids=None):
        if torch.is_grad_enabled():
            told.append(tuple(condition.context.shape[1:]))
        return real(self, xt, timestep, condition, time_ids)

    monkeypatch.setattr(BaseModel, "predict", watched)
    base = session.open_base(recipe.base, recipe.memory, CPU)
    trained = session.run(session.make_plan(recipe), base)
    assert told == [(152, 64)] * 2
    file = read_network(trained.path)
    assert file.metadata["ss_max_token_length"] == "150"

    short = replace(long, network=network, output=replace(long.output, name="short"))
    other = read_network(session.run(session.make_plan(short), base).path)
    assert other.metadata["ss_max_token_length"] == "None"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert not torch.equal(file.modules[key][1], other.modules[key][1])


def test_options_are_the_recipes(long):
    dataset = replace(long.dataset, caption_tokens=225, weighted_captions=True)
    base = replace(long.base, clip_skip=2)
    assert TextOptions.of(long) == TextOptions(clip_skip=1, chunks=1, weighted=False)
    options = TextOptions.of(replace(long, base=base, dataset=dataset))
    assert options == TextOptions(clip_skip=2, chunks=3, weighted=True)


def test_captions_that_are_cut_are_counted(long):
    def cut(**changes):
        recipe = replace(long, dataset=replace(long.dataset, **changes))
        texts = (finding.text for finding in session.make_plan(recipe).findings)
        return [text for text in texts if "dataset.caption_tokens" in text]

    (finding,) = cut()
    assert finding.startswith("2 captions are longer than dataset.caption_tokens 75")
    assert finding.endswith("raise it, or shorten them")
    assert cut(caption_tokens=150) == []
