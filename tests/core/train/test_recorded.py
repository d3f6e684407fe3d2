"""Recorded steps: the same training, whatever is replayed, can't be recorded or gets no memory."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lora_loop.core import session
from lora_loop.core.config.memory import MemoryConfig
from lora_loop.core.events import StepDone
from lora_loop.core.train import recorded, step, trainer


class Recorder:
    """Records as a graph does, on the CPU: does nothing at first, the same work at each call."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.recorded, self.replayed = fails, 0, 0

    def __call__(self, run):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nat ...")
        self.recorded += 1

        def replay():
            self.replayed += 1
            return run()

        return replay


@pytest.fixture
def use(monkeypatch):
    """Let trainings record their steps by a recorder."""
    return lambda recorder: monkeypatch.setattr(
        trainer, "recorder_for", lambda _device, _memory: recorder
    )


def trained(recipe, name):
    recipe = replace(recipe, output=replace(recipe.output, name=name))
    base = session.open_base(recipe.base, recipe.memory, torch.device("cpu"))
    return load_file(session.run(session.make_plan(recipe), base).path)


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6, msg=name)


def distance(one, other):
    """How far apart two networks are, as a part of their size: Adam makes much of small things."""
    both = [torch.cat([t.double().flatten() for t in own.values()]) for own in (one, other)]
    return float((both[0] - both[1]).norm() / both[0].norm())


@pytest.fixture(params=["with text encoder", "U-Net alone", "accumulated"])
def recipe(recipe, request):
    text = request.param != "U-Net alone"
    training = replace(recipe.training, max_steps=12)
    if request.param == "accumulated":
        training = replace(training, gradient_accumulation=2, max_steps=6)
    return replace(recipe, training=training, network=replace(recipe.network, text_encoder=text))


def test_replayed_steps_train_what_plain_steps_train(recipe, use):
    plain = trained(recipe, "plain")
    use(recorder := Recorder())
    assert_close(trained(recipe, "recorded"), plain)
    assert recorder.recorded > 1  # the pictures are of several sizes
    assert recorder.replayed > recorder.recorded


def test_what_cannot_be_recorded_is_trained_step_by_step(recipe, use, caplog):
    plain = trained(recipe, "plain")
    use(Recorder(fails=True))
    assert_close(trained(recipe, "recorded"), plain)
    (warning,) = (r.getMessage() for r in caplog.records if "recorded" in r.getMessage())
    assert warning.endswith("operation not permitted when stream is capturing")


def test_recordings_make_room_where_memory_runs_out(recipe, use, monkeypatch):
    plain = trained(recipe, "plain")
    use(recorder := Recorder())
    failures = []

    def loss(*given):
        result = step.denoising_loss(*given)
        if recorder.replayed and not failures:
            failures.append(result)
            raise torch.cuda.OutOfMemoryError("out of memory")
        return result

    monkeypatch.setattr(trainer, "denoising_loss", loss)
    assert_close(trained(recipe, "recorded"), plain)
    assert failures
    assert recorder.replayed == 1


def test_moved_weights_are_recorded_anew(recipe, use, monkeypatch):
    plain = trained(recipe, "plain")
    use(recorder := Recorder())
    advance = trainer.Trainer.advance

    def moving(self):
        if self.step == self.steps // 2:
            for weight in self._base.unet.parameters():
                if not weight.requires_grad:  # the network's own stay where they are
                    weight.data = weight.data.clone()
        return advance(self)

    still = trained(recipe, "still")
    before = recorder.recorded
    monkeypatch.setattr(trainer.Trainer, "advance", moving)
    moved = trained(recipe, "moved")
    assert recorder.recorded - before > before
    assert_close(still, plain)
    assert_close(moved, plain)


def test_steps_are_recorded_where_that_is_known_to_work(monkeypatch):
    monkeypatch.setattr(recorded, "CudaRecorder", lambda device: device)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    gpu = torch.device("cuda")
    assert recorded.recorder_for(gpu, MemoryConfig()) == gpu
    assert recorded.recorder_for(torch.device("cpu"), MemoryConfig()) is None
    for unwanted in ({"cuda_graphs": False}, {"gradient_checkpointing": True}):
        assert recorded.recorder_for(gpu, MemoryConfig(**unwanted)) is None
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    assert recorded.recorder_for(gpu, MemoryConfig()) is None
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert recorded.recorder_for(gpu, MemoryConfig()) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing was recorded")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_replays_what_it_computes(recipe, precision, caplog, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    recipe = replace(recipe, memory=replace(recipe.memory, precision=precision))
    found = []
    for graphs in (False, True):
        own = replace(recipe, memory=replace(recipe.memory, cuda_graphs=graphs))
        own = replace(own, output=replace(own.output, name=f"graphs-{graphs}"))
        base = session.open_base(own.base, own.memory, torch.device("cuda"))
        path = session.run(session.make_plan(own), base).path
        found.append(load_file(path))
    assert distance(*found) < 0.1
    assert not [r for r in caplog.records if "recorded" in r.getMessage()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing was recorded")
def test_a_gpu_goes_on_where_it_was_stopped(recipe, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    recipe = replace(recipe, memory=replace(recipe.memory, precision="bf16"))
    base = session.open_base(recipe.base, recipe.memory, torch.device("cuda"))
    whole = load_file(session.run(session.make_plan(recipe), base).path)

    recipe = replace(recipe, output=replace(recipe.output, name="halves"))
    events = []
    plan = session.make_plan(recipe)

    def half() -> bool:
        return sum(isinstance(event, StepDone) for event in events) >= 3

    assert session.run(plan, base, on_event=events.append, stop=half).stopped
    plan = session.make_plan(recipe, "resume")
    halves = load_file(session.run(plan, base, start="resume").path)
    assert distance(whole, halves) < 0.1
