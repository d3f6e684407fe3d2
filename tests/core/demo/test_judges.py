"""The judges: right on what was drawn, wrong on what was not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lora_loop.core.demo.draw import draw, sample_scene
from lora_loop.core.demo.judge import judge_scene
from lora_loop.core.demo.subject import (
    KNOWN_BACKGROUNDS,
    NEW_BACKGROUNDS,
    SIZES,
    SUBJECT_TRIGGER,
    Pose,
    base_prompts,
    draw_subject,
    judge_subject,
    look_for_subject,
    subject_prompts,
)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 80), (128, 64)])
def test_scenes_are_found_again(width: int, height: int) -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(200)]
    right = [judge_scene(draw(scene, width, height), scene).all_right for scene in scenes]
    assert np.mean(right) >= 0.98


def test_each_wrong_property_is_told() -> None:
    rng = np.random.default_rng(2)
    scene = replace(sample_scene(rng), shape="star", colour="red", background="blue")
    picture = draw(scene, 64, 64)
    assert not judge_scene(picture, replace(scene, colour="green")).colour
    assert not judge_scene(picture, replace(scene, shape="circle")).shape
    assert not judge_scene(picture, replace(scene, background="white")).background
    assert judge_scene(picture, scene).all_right


def test_empty_picture_shows_no_shape() -> None:
    scene = replace(sample_scene(np.random.default_rng(3)), background="blue", colour="red")
    picture = draw(scene, 64, 64).resize((64, 64), box=(0, 0, 1, 1))
    verdict = judge_scene(picture, scene)
    assert verdict.background
    assert not verdict.shape
    assert not verdict.colour


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 80), (80, 48), (128, 128)])
def test_subject_is_found_in_its_drawings(width: int, height: int) -> None:
    for background in (*KNOWN_BACKGROUNDS, *NEW_BACKGROUNDS):
        for size in SIZES:
            assert judge_subject(
                draw_subject(Pose(background=background, size=size), width, height)
            )


def test_every_part_is_seen() -> None:
    verdict = look_for_subject(draw_subject(Pose(background="blue"), 64, 64))
    assert verdict.body
    assert verdict.eyes
    assert verdict.ears
    assert verdict.outline
    assert verdict.frame
    assert verdict.bands


def test_base_scenes_are_not_the_subject() -> None:
    rng = np.random.default_rng(4)
    found = [judge_subject(draw(sample_scene(rng), 64, 64)) for _ in range(300)]
    assert np.mean(found) <= 0.02


def test_prompts_for_the_subject_are_new_and_many() -> None:
    prompts = subject_prompts()
    assert len(set(prompts)) == len(prompts) >= 12
    assert all(prompt.startswith(SUBJECT_TRIGGER) for prompt in prompts)
    assert not any(background in p for p in prompts for background in KNOWN_BACKGROUNDS)


def test_base_prompts_fit_their_scenes() -> None:
    pairs = base_prompts()
    assert len(pairs) >= 24
    assert pairs == base_prompts()
    assert all(scene.background in text and scene.colour in text for text, scene in pairs)
