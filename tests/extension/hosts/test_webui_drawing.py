"""Pictures by the WebUI's `processing`: what it is asked for, and that it is as it was."""

import importlib
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from lora_loop.core.errors import ConfigError
from lora_loop.core.models.artist import Brief
from lora_loop.extension.hosts.loan import Loan

BRIEF = Brief(
    text="a cat",
    negative="a dog",
    seed=3,
    sampler="Heun",
    scheduler="Karras",
    steps=4,
    guidance=7,
    width=64,
    height=128,
    clip_skip=2,
)


class Task:
    """As much of the host's own as ours touches."""

    shared_conds = [None, None]  # noqa: RUF012  (the host's mistake, which is ours to step around)

    def __init__(self, **settings) -> None:
        self.settings, self.closed = settings, False
        self.cached_c = self.cached_uc = self.shared_conds

    def close(self) -> None:
        self.closed = True


class Lent(Loan):
    """The loan of a U-Net of one layer."""

    def __init__(self) -> None:
        self.unet = nn.Sequential(nn.Linear(2, 2))
        self.current, self.drawn = True, 0

    def live(self):
        raise NotImplementedError

    def is_current(self):
        return self.current

    def networks(self):
        return self.unet, nn.Module()

    @contextmanager
    def drawing(self):
        self.drawn += 1
        yield

    def take_out(self):
        raise NotImplementedError

    def put_back(self):
        raise NotImplementedError


@pytest.fixture
def studio(modules, monkeypatch):
    """The host at work: `run` is its sampling, which calls the U-Net twice a step."""
    shared, found = modules.shared, SimpleNamespace(loan=Lent(), tasks=[], seen=[])
    shared.sd_model = SimpleNamespace(sd_checkpoint_info=SimpleNamespace(title="loaded.ckpt"))
    shared.total_tqdm = SimpleNamespace(clear=lambda: None)
    shared.cmd_opts.no_prompt_history = False
    shared.opts.data.update(sd_model_checkpoint="chosen meanwhile")
    shared.state.interrupted = shared.state.skipped = False

    def run(task):
        found.tasks.append(task)
        found.seen.append((dict(shared.opts.data), shared.cmd_opts.no_prompt_history))
        denoiser = SimpleNamespace(step=0, total_steps=2 * task.settings["steps"])
        task.sampler = SimpleNamespace(model_wrap_cfg=denoiser)
        task.cached_c[0] = "with the LoRA"
        while denoiser.step < denoiser.total_steps and not shared.state.interrupted:
            found.loan.unet(torch.zeros(1, 2))
            denoiser.step += 1
        return SimpleNamespace(images=[Image.new("RGBA", (64, 128), "red")])

    modules.processing.StableDiffusionProcessingTxt2Img = Task
    modules.processing.process_images_inner = run
    found.drawing = importlib.import_module("lora_loop.extension.hosts.webui_drawing")
    unet = SimpleNamespace(conv_out=SimpleNamespace(weight=found.loan.unet[0].weight))
    base = SimpleNamespace(parts={}, dtype=torch.float32, unet=unet)
    found.artist = found.drawing.HostArtist(base, found.loan, "WebUI")
    found.shared = shared
    return found


def test_the_host_is_asked_for_what_the_brief_says(studio) -> None:
    steps = []
    picture = studio.artist.draw(BRIEF, lambda step: steps.append(step) or True)
    assert (picture.size, picture.mode) == ((64, 128), "RGB")
    assert steps == [1, 1, 2, 2, 3, 3, 4, 4]
    (task,), ((options, unnoted),) = studio.tasks, studio.seen
    asked = ("prompt", "negative_prompt", "seed", "sampler_name", "steps", "cfg_scale")
    assert [task.settings[name] for name in asked] == ["a cat", "a dog", 3, "Heun", 4, 7]
    assert (task.settings["width"], task.settings["height"]) == (64, 128)
    assert task.settings["do_not_save_samples"]
    assert task.settings["do_not_save_grid"]
    assert task.disable_extra_networks
    assert options["CLIP_stop_at_last_layers"] == 2
    assert options["sd_model_checkpoint"] == "loaded.ckpt"
    assert unnoted
    assert studio.loan.drawn == 1


def require_untouched(studio) -> None:
    assert studio.shared.opts.data == {"sd_model_checkpoint": "chosen meanwhile"}
    assert studio.shared.cmd_opts.no_prompt_history is False
    assert studio.shared.state.interrupted is False
    assert Task.shared_conds == [None, None]
    assert not studio.loan.unet._forward_pre_hooks
    assert all(task.closed for task in studio.tasks)


def test_the_host_is_as_it_was(studio) -> None:
    studio.artist.draw(BRIEF, lambda _step: True)
    require_untouched(studio)


def test_after_an_error_too(studio) -> None:
    def fail(_step):
        raise MemoryError

    with pytest.raises(MemoryError):
        studio.artist.draw(BRIEF, fail)
    require_untouched(studio)


def test_a_stop_ends_the_hosts_sampling_and_leaves_its_button_alone(studio) -> None:
    steps = []

    def until_second(step):
        steps.append(step)
        return step < 2

    assert studio.artist.draw(BRIEF, until_second) is None
    assert steps == [1, 1, 2]
    require_untouched(studio)


def test_the_hosts_own_button_ends_it_too_and_stays_pressed(studio) -> None:
    def press(step):
        studio.shared.state.interrupted = step == 2
        return True

    assert studio.artist.draw(BRIEF, press) is None
    assert studio.shared.state.interrupted is True


def test_nothing_is_drawn_on_a_model_that_is_about_to_go(studio) -> None:
    studio.loan.current = False
    assert studio.artist.draw(BRIEF, lambda _step: True) is None
    assert not studio.tasks


def test_samplers_by_their_names(studio) -> None:
    assert studio.drawing.sampler_names() == ("Euler a", "Heun")
    assert studio.drawing.scheduler_names() == ()  # as before 1.9
    studio.artist.check("Hidden", "")
    with pytest.raises(ConfigError, match="did you mean 'Heun'"):
        studio.artist.check("Huen", "")
    with pytest.raises(ConfigError, match="has no 'Karras'"):
        studio.artist.check("Heun", "Karras")


def test_pictures_are_seeded_as_the_host_seeds_its_own(studio, modules):
    drawing = studio.drawing
    assert drawing.seeding().title == "CPU"
    noise = drawing.seeding().noise(5)
    chance = torch.Generator().manual_seed(5)
    for _ in range(2):
        assert torch.equal(noise((4, 2, 2)), torch.randn(4, 2, 2, generator=chance))
    modules.shared.opts.eta_noise_seed_delta = 31337
    noise = drawing.seeding().noise(5)
    for seed in (5, 5 + 31337):
        chance = torch.Generator().manual_seed(seed)
        assert torch.equal(noise((4, 2, 2)), torch.randn(4, 2, 2, generator=chance))
    assert torch.equal(noise((4, 2, 2)), torch.randn(4, 2, 2, generator=chance))


def test_noise_of_the_hosts_own_kind(studio, monkeypatch):
    rng = studio.drawing.rng
    monkeypatch.setattr(rng, "create_generator", lambda seed: iter(range(seed, seed + 9)))
    monkeypatch.setattr(
        rng,
        "randn_without_seed",
        lambda shape, generator: torch.full(shape, float(next(generator))),
    )
    seeding = studio.drawing.seeding()
    assert seeding.title == "NV"
    noise = seeding.noise(7)
    assert [noise((1,)) for _ in range(3)] == [7, 8, 9]
