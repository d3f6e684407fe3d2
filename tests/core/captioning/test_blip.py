"""BLIP: its preparation against torch, its sentences against transformers' own generate()."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_loop.core.captioning.blip import (
    TIED,
    BlipCaptioner,
    BlipFiles,
    Preparation,
    prepare_picture,
)
from lora_loop.core.captioning.nucleus import NucleusNoise, keep_nucleus
from lora_loop.core.captioning.protocol import CaptionerSource
from lora_loop.core.config.caption import BlipConfig
from lora_loop.core.errors import CheckpointError

SHORT = {"min_length": 3, "max_length": 8}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return tiny.write_blip(tmp_path_factory.mktemp("blip") / "thin")


def blip(folder, read=load_file, **settings):
    [files] = BlipFiles.find(folder)
    source = CaptionerSource(folders=(), device=torch.device("cpu"), read_weights=read)
    return BlipCaptioner(files, BlipConfig(**{**SHORT, **settings}), source)


def pictures(count):
    chance = np.random.default_rng(3)
    shapes = [(40 + 7 * n, 30 + 5 * n, 3) for n in range(count)]
    return [Image.fromarray(chance.integers(80, 180, s, dtype=np.uint8)) for s in shapes]


def test_preparation_against_torch():
    [picture] = pictures(1)
    how = Preparation(24)
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    pixels = torch.nn.functional.interpolate(tensor, (24, 24), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    expected = (pixels[0] / 255 - mean) / std
    prepared = prepare_picture(picture, how)
    assert np.abs(prepared - expected.numpy()).max() <= 1.5 / 255 / min(
        how.std
    )  # Pillow rounds twice


def own_words(tiny, folder, prepared, **search):
    """What transformers says by itself of the same pixels."""
    from transformers import BlipConfig as ModelConfig
    from transformers import BlipForConditionalGeneration

    model = BlipForConditionalGeneration(ModelConfig.from_json_file(str(folder / "config.json")))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    ids = model.eval().generate(pixel_values=torch.from_numpy(np.stack(prepared)), **search)
    lines = []
    for row in ids.tolist():
        row = row[1:]
        row = row[: row.index(3)] if 3 in row else row
        lines.append(" ".join(tiny.WORDS[number] for number in row if number > 4))
    return lines


@pytest.mark.parametrize("beams", [1, 3])
def test_beam_search_is_transformers_own(tiny, folder, beams):
    model = blip(folder, beams=beams)
    prepared = [model.prepare(picture) for picture in pictures(3)]
    expected = own_words(
        tiny, folder, prepared, num_beams=beams, do_sample=False, max_length=9, min_length=4
    )
    assert all(len(line.split()) == 8 for line in expected)
    assert model.caption(prepared) == expected


def test_lengths_count_the_words_after_the_beginning(folder):
    """One token a word, and a model that never ends by itself."""
    model = blip(folder, prompt="a photo of", min_length=2, max_length=2)
    [said] = model.caption([model.prepare(pictures(1)[0])])
    assert said.startswith("a photo of ")
    assert len(said.split()) == 3 + 2


@pytest.mark.parametrize("stored", [0, 1])
def test_of_tied_weights_one_is_enough(folder, stored):
    def read(path):
        left_out = {pair[stored] for pair in TIED.items()}
        return {name: value for name, value in load_file(path).items() if name not in left_out}

    prepared = [blip(folder).prepare(picture) for picture in pictures(2)]
    assert blip(folder, read).caption(prepared) == blip(folder).caption(prepared)


def test_nucleus_sampling_neither_knows_its_batch_nor_moves_the_process_chance(folder):
    model = blip(folder, method="nucleus", top_p=0.95)
    prepared = [model.prepare(picture) for picture in pictures(4)]
    before = torch.get_rng_state()
    together = model.caption(prepared)
    assert torch.equal(torch.get_rng_state(), before)
    assert [model.caption([one])[0] for one in prepared] == together
    assert model.caption(prepared[::-1]) == together[::-1]
    assert blip(folder, method="nucleus", top_p=0.95, seed=2).caption(prepared) != together


def test_loading_does_not_move_the_process_chance(folder):
    before = torch.get_rng_state()
    blip(folder).prepare(pictures(1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_nucleus_by_hand():
    """0.5, 0.3, 0.15, 0.05: two words reach 0.8; the likeliest stays whatever top_p."""
    scores = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    assert keep_nucleus(scores, 0.79).isfinite().tolist() == [[False, True, False, True]]
    assert keep_nucleus(scores, 0.81).isfinite().tolist() == [[True, True, False, True]]
    assert keep_nucleus(scores, 0.01).isfinite().tolist() == [[False, True, False, False]]


def test_noised_scores_are_drawn_by_their_probabilities():
    chances = torch.tensor([0.6, 0.3, 0.1])
    scores = chances.log().expand(4000, 3)
    noise = NucleusNoise(1.0, [torch.Generator().manual_seed(seed) for seed in range(4000)])
    drawn = noise(torch.empty(0), scores).argmax(-1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(shares, chances, atol=0.03, rtol=0)  # four standard deviations


def test_a_pickle_says_the_same_and_weights_of_another_kind_are_refused(tiny, folder, tmp_path):
    pickled = tiny.write_blip(tmp_path / "pickled", pickled=True)
    prepared = [blip(folder).prepare(picture) for picture in pictures(2)]
    read = lambda path: torch.load(path, weights_only=True)  # noqa: E731
    assert blip(pickled, read).caption(prepared) == blip(folder).caption(prepared)
    model = blip(folder, lambda path: {"x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"lacks .*not a BLIP"):
        model.prepare(pictures(1)[0])


def test_folders_without_a_blip(tiny, folder, tmp_path):
    assert BlipFiles.find(tmp_path) == []
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}', encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("a", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert BlipFiles.find(tmp_path) == []


def test_the_vocabulary_of_either_file(tiny, folder, tmp_path):
    import json

    other = tiny.write_blip(tmp_path / "thin")
    (other / "vocab.txt").unlink()
    vocabulary = {word: number for number, word in enumerate(tiny.WORDS)}
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": vocabulary}}), encoding="utf-8")
    prepared = [blip(folder).prepare(picture) for picture in pictures(2)]
    prompt = {"prompt": "a Photo of"}
    assert blip(other, **prompt).caption(prepared) == blip(folder, **prompt).caption(prepared)
    for damaged in ("{", '{"model": {"vocab": {"a": 1}}}', '{"model": {}}'):
        tokenizer.write_text(damaged, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            blip(other).prepare(pictures(1)[0])
