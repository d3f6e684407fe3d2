"""Trainings on a host's own weights: the file's results, the host left as it was, always."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lora_loop.core import session
from lora_loop.core.config.recipe import Recipe
from lora_loop.core.errors import FileError, HostChangedError
from lora_loop.core.events import Event, Finished, StepDone, never
from lora_loop.core.files import network_file
from lora_loop.core.files.resume import state_paths
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw
from lora_loop.core.session import LiveFacts, LiveModel
from lora_loop.core.train import host_watch
from lora_loop.core.train.host_watch import HostWatch

from .conftest import load_helper

CPU = torch.device("cpu")
FACTS = LiveFacts(
    name="momo-merge.safetensors", metadata={"modelspec.resolution": "64x64"}, sha256="ab" * 32
)


@pytest.fixture(scope="session")
def hosts():
    """The helper that makes modules as hosts have them."""
    return load_helper("make_host", Path(__file__).parent / "models/make_host.py")


@pytest.fixture(scope="session")
def thin_tensors(checkpoints) -> dict[str, torch.Tensor]:
    """Those of the `thin_checkpoint`."""
    return checkpoints.sd1_tensors(checkpoints.THIN, seed=3)


@pytest.fixture
def host(hosts, thin_tensors) -> nn.Module:
    return hosts.webui(thin_tensors)


@pytest.fixture
def recipe(recipe, write_pictures, tmp_path) -> Recipe:
    """With pictures whose smallest maps are larger than a pixel.

    The layout of weights decides how maps of one pixel are summed up: the last bit may differ.
    """
    sizes = [(128, 128), (128, 128), (192, 128), (128, 208)]
    folder = write_pictures(tmp_path / "pictures" / "2_momo", sizes).parent
    return replace(recipe, dataset=replace(recipe.dataset, folder=str(folder), resolution=128))


@pytest.fixture
def hosted(recipe) -> Recipe:
    """The recipe without a checkpoint that could be read."""
    return replace(recipe, base=replace(recipe.base, checkpoint="/nowhere/at-all.safetensors"))


def adopt(host: nn.Module, recipe: Recipe, facts: LiveFacts = FACTS):
    live = LiveModel.of_checkpoint(host, facts)
    return session.adopt(live, recipe.base, recipe.memory, CPU)


def train(host: nn.Module, recipe: Recipe, *, start: Any = "new", **how: Any):
    with adopt(host, recipe) as base:
        plan = session.make_plan(recipe, start, base=base)
        return session.run(plan, base, start=start, **how)


def named(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, output=replace(recipe.output, name=name))


def content(path: Path) -> dict[str, torch.Tensor]:
    modules = network_file.read_network(path).modules
    pairs = ((key, module[:2]) for key, module in modules.items())
    return {f"{key}.{n}": pair[n] for key, pair in pairs for n in (0, 1)}


def assert_same_file(one: Path | None, other: Path | None) -> None:
    assert one is not None
    assert other is not None
    first, second = content(one), content(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def stop_after(count: int) -> Callable[[], bool]:
    calls = itertools.count()
    return lambda: next(calls) >= count


def test_the_host_trains_what_the_file_trains_and_stays_as_it_is(recipe, hosted, host, hosts):
    is_same = hosts.snapshot(host)
    base = session.open_base(recipe.base, recipe.memory, CPU)
    read = session.run(session.make_plan(recipe), base)
    adopted = train(host, named(hosted, "adopted"))
    assert_same_file(adopted.path, read.path)
    assert adopted.history.losses == read.history.losses
    assert is_same()
    metadata = network_file.read_network(adopted.path).metadata
    assert metadata["ss_sd_model_name"] == "momo-merge.safetensors"
    assert metadata["ss_new_sd_model_hash"] == "ab" * 32


def test_pictures_are_those_of_the_file(recipe, hosted, host):
    settings = DrawSettings(width=128, height=128, steps=2, guidance=3.0, seed=7)
    prompts = (Prompt("momo, picture 1"),)
    wanted = draw(session.open_base(recipe.base, recipe.memory, CPU), prompts, settings)
    with adopt(host, hosted, replace(FACTS, sha256=None)) as base:
        found = draw(base, prompts, settings)
        assert np.array_equal(np.asarray(found[0]), np.asarray(wanted[0]))


def explode(*_: object) -> None:
    raise MemoryError


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [explode, interrupt], ids=["error", "interrupt"])
def test_the_host_is_as_it_was_after_an_error(hosted, host, hosts, monkeypatch, end):
    is_same = hosts.snapshot(host)
    monkeypatch.setattr("lora_loop.core.train.trainer.denoising_loss", end)
    with pytest.raises((MemoryError, KeyboardInterrupt)):
        train(host, hosted)
    assert is_same()


def test_stopped_and_resumed_on_a_host_that_was_started_anew(hosted, hosts, thin_tensors):
    host = hosts.webui(thin_tensors)
    is_same = hosts.snapshot(host)
    stopped = train(host, hosted, stop=stop_after(8))
    assert stopped.stopped
    assert 0 < stopped.steps < 6
    assert is_same()
    other = {name: tensor * 1.01 for name, tensor in thin_tensors.items()}
    with pytest.raises(FileError, match="the base model changed"):
        train(hosts.webui(other), hosted, start="resume")
    resumed = train(hosts.webui(thin_tensors), hosted, start="resume")
    straight = train(hosts.webui(thin_tensors), named(hosted, "straight"))
    assert_same_file(resumed.path, straight.path)


def half(thin_tensors, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in thin_tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_narrow_weights_are_trained_on(hosted, hosts, thin_tensors, dtype, checkpointing):
    host = hosts.webui(half(thin_tensors, dtype))
    is_same = hosts.snapshot(host)
    memory = replace(hosted.memory, gradient_checkpointing=checkpointing)
    network = replace(hosted.network, conv_rank=2)
    trained = train(host, replace(hosted, memory=memory, network=network))
    assert is_same()
    assert np.isfinite(trained.history.losses).all()
    assert all(weights.any() for weights in content(trained.path).values())


def test_fp16_weights_train_as_the_same_numbers_in_fp32(hosted, hosts, thin_tensors):
    narrow = half(thin_tensors, torch.float16)
    one = train(hosts.webui(narrow), named(hosted, "narrow"))
    other = train(hosts.webui(half(narrow, torch.float32)), named(hosted, "wide"))
    # the same numbers, but products of other kernels, which sum in another order
    assert one.history.losses == pytest.approx(other.history.losses, rel=1e-4)


def test_sdxl_as_comfyui_holds_it(hosted, hosts, checkpoints):
    tensors = checkpoints.tensors_of(checkpoints.sdxl_names(), 3)
    modules = hosts.comfy(half(tensors, torch.float16))
    same = [hosts.snapshot(module) for module in modules.values()]
    live = LiveModel.of_modules(**modules, facts=FACTS)
    recipe = replace(hosted, training=replace(hosted.training, max_steps=2))
    with session.adopt(live, recipe.base, recipe.memory, CPU) as base:
        trained = session.run(session.make_plan(recipe, base=base), base)
    assert all(is_same() for is_same in same)
    keys = network_file.read_network(trained.path).modules
    assert {key.split("_")[1] for key in keys} == {"unet", "te1", "te2"}


def test_a_plan_counts_what_is_taken_beside_the_hosts_weights(recipe, hosted, hosts, thin_tensors):
    read = session.make_plan(recipe)
    weights = sum(p.numel() * 4 for net in read.outline.networks.values() for p in net.parameters())
    for dtype in (torch.float32, torch.float16):
        with adopt(hosts.webui(half(thin_tensors, dtype)), hosted) as base:
            plan = session.make_plan(hosted, base=base)
            own = base.loan.own_bytes
        assert plan.memory_bytes == read.memory_bytes - weights + own
        assert (plan.steps, plan.file_bytes) == (read.steps, read.file_bytes)
        assert (own == 0) == (dtype == torch.float32)


def merge_lora(host: nn.Module) -> None:
    with torch.inference_mode():
        for parameter in host.parameters():
            parameter.mul_(1.01)


def load_another(host: nn.Module) -> None:
    for parameter in host.parameters():
        parameter.data = torch.zeros_like(parameter)


class Meddler:
    """Changes the host's model after the second step."""

    def __init__(self, host: nn.Module, meddle: Callable[[nn.Module], None]) -> None:
        self.host, self.meddle = host, meddle
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            self.meddle(self.host)


@pytest.mark.parametrize(
    ("meddle", "words"), [(merge_lora, "content changed"), (load_another, "storage changed")]
)
def test_a_model_changed_meanwhile_stops_the_training_with_all_saved(
    hosted, host, monkeypatch, meddle, words
):
    monkeypatch.setattr(host_watch, "_LEAST_PAUSE", 0.0)
    monkeypatch.setattr(host_watch, "_SHARE", 0.0)
    meddler = Meddler(host, meddle)
    with pytest.raises(HostChangedError) as caught:
        train(host, hosted, on_event=meddler)
    finished = meddler.events[-1]
    assert isinstance(finished, Finished)
    assert finished.stopped
    assert 2 <= finished.steps < 6
    assert finished.path is not None
    assert network_file.read_network(finished.path).modules
    assert state_paths(Path(hosted.output.folder) / "momo.safetensors")[0].exists()
    told = str(caught.value)
    assert "the host has changed its model momo-merge during the training" in told
    assert words in told
    assert str(finished.path) in told
    assert "Besides, the host's model momo-merge.safetensors is not as it was" in told


def test_a_change_that_no_glance_saw_is_told_at_the_end(hosted, host, monkeypatch):
    monkeypatch.setattr(host_watch, "_LEAST_PAUSE", 1e6)
    meddler = Meddler(host, load_another)
    with pytest.raises(HostChangedError, match="what was trained in 6 steps is in"):
        train(host, hosted, on_event=meddler)
    finished = meddler.events[-1]
    assert isinstance(finished, Finished)
    assert not finished.stopped


class Clock:
    """A clock that is turned by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Lender:
    """A base model whose loan takes a second to look at."""

    name = "momo"

    def __init__(self, clock: Clock) -> None:
        self.loan, self._clock = self, clock
        self.looks: list[float] = []
        self.found: tuple[str, ...] = ()

    def changes(self) -> tuple[str, ...]:
        self.looks.append(self._clock.now)
        self._clock.now += 1.0
        return self.found


def test_the_watch_takes_half_a_percent_of_the_time():
    clock = Clock()
    lender: Any = Lender(clock)
    watch = HostWatch(lender, never, clock)
    for _ in range(900):
        assert not watch()
        clock.now += 1.0
    assert lender.looks == [102.0, 302.0, 502.0, 702.0, 902.0]
    watch.require_unchanged("nothing")
    lender.found = ("storage changed: 1 (a)",)
    clock.now += 200.0
    assert watch()
    looks = len(lender.looks)
    assert watch()
    with pytest.raises(
        HostChangedError, match=r"storage changed: 1 \(a\).*, before its first step"
    ):
        watch.require_unchanged("before its first step")
    assert len(lender.looks) == looks


def test_a_base_model_of_ones_own_is_not_watched(recipe):
    base: BaseModel = session.open_base(recipe.base, recipe.memory, CPU)
    clock = Clock()
    watch = HostWatch(base, stop_after(2), clock)
    clock.now += 1e6
    assert [watch(), watch(), watch()] == [False, False, True]
    watch.require_unchanged("nothing")
