"""What a seed means."""

import torch

from lora_loop.core.diffusion.seeds import ON_CPU, Seeding

SHAPE = (4, 2, 3)


def test_noise_goes_on_where_it_ended() -> None:
    chance = torch.Generator().manual_seed(5)
    noise = ON_CPU.noise(5)
    for _ in range(3):
        assert torch.equal(noise(SHAPE), torch.randn(SHAPE, generator=chance))


def test_noise_on_the_way_may_be_another_seeds() -> None:
    noise = Seeding("CPU", ON_CPU.begin, later=7).noise(5)
    first, later = ON_CPU.noise(5), ON_CPU.noise(12)
    for wanted in (first, later, later):
        assert torch.equal(noise(SHAPE), wanted(SHAPE))


def test_ways_are_equal_that_make_the_same_noise() -> None:
    assert Seeding("CPU", ON_CPU.begin) == ON_CPU
    assert Seeding("CPU", ON_CPU.begin, later=7) != ON_CPU
    assert Seeding("CPU", ON_CPU.begin, later=7).name == "CPU, ENSD 7"
