"""Pictures repeat, do not depend on their neighbours, and follow guidance and sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.adapters.applied import AppliedNetwork, AppliedStack
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.strength import Strength, Window
from lora_loop.core.config import BaseConfig, DatasetConfig, PreviewConfig, Recipe
from lora_loop.core.config.fields import describe
from lora_loop.core.diffusion.samplers import SAMPLERS
from lora_loop.core.errors import ConfigError
from lora_loop.core.events import Event, PhaseProgress, PhaseStarted
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.models.text import TextOptions
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

FAST = DrawSettings(steps=1)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(pixels(first), pixels(second))


def test_pictures_repeat_and_differ_by_prompt_and_seed(base: BaseModel) -> None:
    prompts = [Prompt("a cat"), Prompt("a dog")]
    first, second = draw(base, prompts, FAST)
    assert first.size == (64, 64)
    assert first.mode == "RGB"
    assert not same(first, second)
    assert same(draw(base, prompts[:1], FAST)[0], first)
    assert same(draw(base, prompts[1:], replace(FAST, seed=2))[0], second)  # seed + index
    assert not same(draw(base, prompts[:1], replace(FAST, seed=2))[0], first)


def test_the_process_stream_is_left_alone(base: BaseModel) -> None:
    before = torch.get_rng_state()
    draw(base, [Prompt("a cat")], replace(FAST, sampler="euler_a", steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_draws_the_same_pictures(base: BaseModel) -> None:
    prompts = [Prompt("a cat"), Prompt("a dog", "ugly"), Prompt("")]
    settings = replace(FAST, sampler="euler_a", steps=2)
    alone = draw(base, prompts, settings)
    together = draw(base, prompts, replace(settings, batch_size=2))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one).astype(int) - pixels(other)).max() <= 1


def test_guidance_by_its_formula(base: BaseModel) -> None:
    """With one step and epsilon, x0 is linear in the model's output, so in the guidance."""
    prompt, seen = Prompt("a cat", "a dog"), []
    base.decode = lambda latents: (seen.append(latents), latents.new_zeros(1, 3, 64, 64))[1]
    for guidance in (0.0, 1.0, 3.0):
        draw(base, [prompt], replace(FAST, guidance=guidance))
    unwanted, wanted, guided = seen
    assert not torch.allclose(unwanted, wanted, rtol=0.01)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-3, atol=1e-3)


def test_sampler_and_how_text_is_read_matter(base: BaseModel) -> None:
    prompts = [Prompt("a (cat:1.5), " + "on a mat, " * 30 + "seen from above")]
    plain = draw(base, prompts, replace(FAST, steps=2))[0]
    assert not same(plain, draw(base, prompts, replace(FAST, steps=2, sampler="ddim"))[0])
    for text in (TextOptions(clip_skip=2), TextOptions(chunks=3), TextOptions(weighted=True)):
        assert not same(plain, draw(base, prompts, replace(FAST, steps=2, text=text))[0])


def test_sizes(base: BaseModel) -> None:
    assert draw(base, [Prompt("")], replace(FAST, width=72, height=40))[0].size == (72, 40)
    base.resolution = 100
    assert FAST.size(base) == (96, 96)


def test_v_prediction_with_zero_terminal_snr_draws(base: BaseModel) -> None:
    plain = draw(base, [Prompt("a cat")], replace(FAST, steps=2))[0]
    base.prediction, base.zero_terminal_snr = "v", True
    picture = draw(base, [Prompt("a cat")], replace(FAST, steps=2))[0]
    assert not same(plain, picture)
    assert len(np.unique(pixels(picture))) > 10


def test_progress_counts_steps_of_all_pictures(base: BaseModel) -> None:
    events: list[Event] = []
    draw(
        base,
        [Prompt("a"), Prompt("b"), Prompt("c")],
        DrawSettings(steps=2, batch_size=2),
        events.append,
    )
    assert events[0] == PhaseStarted(name="preview", total=6)
    done = [event.done for event in events if isinstance(event, PhaseProgress)]
    assert done == [2, 4, 5, 6]


def test_stopping_keeps_what_is_drawn(base: BaseModel) -> None:
    events: list[Event] = []
    prompts = [Prompt("a"), Prompt("b"), Prompt("c")]
    pictures = draw(base, prompts, DrawSettings(steps=2), events.append, lambda: len(events) > 4)
    assert len(pictures) == 2  # started, four steps, stopped in the third picture
    assert draw(base, prompts, FAST, stop=lambda: True) == []


def test_no_prompts_draw_nothing(base: BaseModel) -> None:
    assert draw(base, [], FAST) == []


def test_broken_numbers_give_gray_and_a_warning(
    base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    base.decode = lambda latents: torch.full((1, 3, 64, 64), float("nan"))
    picture = draw(base, [Prompt("a cat")], FAST)[0]
    assert set(np.unique(pixels(picture)).tolist()) == {128}
    assert "not finite" in caplog.text


def test_an_attached_network_keeps_its_gradients(base: BaseModel, network: Network) -> None:
    with network.attached(base.parts):
        draw(base, [Prompt("a cat")], FAST)
        condition = base.encode_text(["a cat"])
        base.predict(torch.ones(1, 4, 8, 8), torch.zeros(1), condition).sum().backward()
    assert all(factor.grad is not None for factor in network.named_parameters().values())


def test_networks_act_in_their_steps_alone(
    base: BaseModel, network: Network, updates: dict[str, Update]
) -> None:
    prompts, settings = [Prompt("a cat")], replace(FAST, steps=2)
    never, second = (Strength(text_encoder=0, window=Window(start)) for start in (9, 2))
    (plain,) = draw(base, prompts, settings)
    of_the_unet = {path: own for path, own in updates.items() if path.startswith("unet.")}
    one, other = AppliedNetwork(of_the_unet), AppliedNetwork(of_the_unet)
    with AppliedStack([one, other]).attached(base.parts):
        pictures = []
        for strengths in ((never, never), (second, never), (never, second), (second, second)):
            for each, strength in zip((one, other), strengths, strict=True):
                each.use(strength)
            pictures += draw(base, prompts, settings)
        assert one.acting(one.paths[0]) == other.acting(one.paths[0]) == 1  # it is over
    assert same(pictures[0], plain)
    assert same(pictures[1], pictures[2])
    assert not same(pictures[1], plain)
    assert not same(pictures[1], pictures[3])
    with one.attached(base.parts), one.using(second):
        assert same(draw(base, prompts, settings)[0], pictures[1])
    with network.attached(base.parts), network.using(never):
        assert same(draw(base, prompts, settings)[0], plain)


def test_seeds_go_on_from_zero_after_the_largest(base: BaseModel) -> None:
    prompts = [Prompt("a cat")] * 2
    after = draw(base, prompts, replace(FAST, seed=2**64 - 1))[1]
    assert same(after, draw(base, prompts, replace(FAST, seed=0))[0])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 100}, "preview.width is 100"),
        ({"height": -64}, "preview.height is -64"),
        ({"sampler": "plms"}, "preview.sampler is 'plms'"),
        ({"steps": 0}, "preview.steps is 0"),
        ({"guidance": float("nan")}, "preview.guidance is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DrawSettings(**wrong)


def test_settings_come_from_the_recipe() -> None:
    preview = PreviewConfig(sampler="ddim", steps=7, guidance=3.0, seed=9, width=64, height=128)
    recipe = Recipe(
        base=BaseConfig(clip_skip=2),
        dataset=DatasetConfig(folder="pictures", caption_tokens=225, weighted_captions=True),
        preview=preview,
    )
    settings = DrawSettings.of(preview, TextOptions.of(recipe))
    text = TextOptions(clip_skip=2, chunks=3, weighted=True)
    assert settings == DrawSettings(
        sampler="ddim", steps=7, guidance=3.0, seed=9, width=64, height=128, text=text
    )


def test_every_sampler_of_the_recipe_is_there() -> None:
    sampler = next(setting for setting in describe(PreviewConfig) if setting.name == "sampler")
    assert set(dict(sampler.choices)) == set(SAMPLERS)
