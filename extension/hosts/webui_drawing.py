"""Pictures by the WebUI's own `processing` on the model that it has lent; Forge's is the same."""

# pyright: reportMissingImports=false

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import torch
from modules import processing, rng, sd_samplers, shared
from PIL import Image
from torch import nn

from ...core.errors import ConfigError
from ...core.session import BaseModel, Brief, Noise, Seeding
from .layers import lent_layers, require_shared
from .loan import Loan


def sampler_names() -> tuple[str, ...]:
    """The samplers that the host shows."""
    return tuple(sampler.name for sampler in sd_samplers.visible_samplers())


def scheduler_names() -> tuple[str, ...]:
    """The host's schedule types; none before 1.9, where they were part of a sampler's name."""
    try:
        from modules import sd_schedulers
    except ImportError:
        return ()
    return tuple(scheduler.label for scheduler in sd_schedulers.schedulers)


def seeding() -> Seeding:
    """How the host seeds its pictures now, as its ImageRNG does; by default on its GPU."""
    chance = rng.create_generator(0)
    title = "NV"  # a GPU's noise, computed by a generator of the host's own
    if isinstance(chance, torch.Generator):
        title = "CPU" if chance.device.type == "cpu" else "GPU"
    return Seeding(title, _begin, int(getattr(shared.opts, "eta_noise_seed_delta", 0) or 0))


def _begin(seed: int) -> Noise:
    chance = rng.create_generator(seed)
    return lambda shape: rng.randn_without_seed(shape, generator=chance)


class HostArtist:
    """Draws as txt2img does, with the LoRAs that are attached to the borrowed model.

    loan: the host's model as it is lent.
    """

    def __init__(self, base: BaseModel, loan: Loan, title: str) -> None:
        self._base, self._loan, self._title = base, loan, title

    def check(self, sampler: str, scheduler: str) -> None:
        """Raise ConfigError where the host has no such sampler, or can't draw on its model now."""
        _require_known("host_sampler", sampler, [s.name for s in sd_samplers.all_samplers])
        if scheduler:
            _require_known("host_scheduler", scheduler, scheduler_names())
        require_shared(self._base, self._loan.networks(), self._title)

    def draw(self, brief: Brief, on_step: Callable[[int], bool]) -> Image.Image | None:
        """One picture; nothing is saved, and no `<lora:...>` of the prompt is loaded.

        None also where the host is about to load another model.
        """
        if not self._loan.is_current():
            return None
        task, networks = _task(brief), self._loan.networks()
        was_interrupted = shared.state.interrupted
        stopped = False

        def before(_network: nn.Module, _given: Any) -> None:
            nonlocal stopped
            if not stopped and not on_step(_step_of(task, brief.steps)):
                stopped = True
                shared.state.interrupted = True  # ends the host's sampling as its button does

        with ExitStack() as undo:
            undo.enter_context(closing(task))
            undo.callback(shared.total_tqdm.clear)
            undo.enter_context(lent_layers(self._base, networks, self._title))
            undo.enter_context(_settings(brief))
            undo.enter_context(self._loan.drawing())
            undo.callback(networks[0].register_forward_pre_hook(before).remove)
            try:
                # not `process_images`, which would load a checkpoint chosen meanwhile
                done = processing.process_images_inner(task)
                ended = stopped or shared.state.interrupted or shared.state.skipped
            finally:
                if stopped:
                    shared.state.interrupted = was_interrupted
        return None if ended or not done.images else done.images[0].convert("RGB")


def _task(brief: Brief) -> Any:
    settings: dict[str, Any] = {
        "sd_model": shared.sd_model,
        "prompt": brief.text,
        "negative_prompt": brief.negative,
        "seed": brief.seed,
        "subseed": 0,
        "sampler_name": brief.sampler,
        "steps": brief.steps,
        "cfg_scale": brief.guidance,
        "width": brief.width,
        "height": brief.height,
        "batch_size": 1,
        "n_iter": 1,
        "restore_faces": False,
        "tiling": False,
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }
    if scheduler_names():
        settings["scheduler"] = brief.scheduler or "Automatic"
    task = processing.StableDiffusionProcessingTxt2Img(**settings)
    task.sd_model = shared.sd_model
    task.disable_extra_networks = True
    # the host keeps what a text encoder said for the next picture with the same prompt; this one
    # speaks with a LoRA that the host knows nothing of
    for name in ("cached_c", "cached_uc"):
        setattr(task, name, [None] * len(getattr(task, name)))
    return task


def _step_of(task: Any, steps: int) -> int:
    """The sampling step that the host is in, from 1; some samplers call the model twice a step."""
    denoiser = getattr(getattr(task, "sampler", None), "model_wrap_cfg", None)
    if denoiser is None or not denoiser.total_steps:
        return min(shared.state.sampling_step + 1, steps)
    return min(denoiser.step * steps // denoiser.total_steps + 1, steps)


@contextmanager
def _settings(brief: Brief) -> Iterator[None]:
    """The host's settings for a picture, for the length of a with block.

    Its checkpoint stays the one that is loaded, also where the user has just chosen another; the
    prompt is not noted as the last one that was generated.
    """
    data, flags = shared.opts.data, shared.cmd_opts
    chosen = {
        "CLIP_stop_at_last_layers": brief.clip_skip,
        "sd_model_checkpoint": shared.sd_model.sd_checkpoint_info.title,
    }
    former = {name: data[name] for name in chosen if name in data}
    noted = flags.no_prompt_history
    flags.no_prompt_history = True
    data.update(chosen)
    try:
        yield
    finally:
        for name in chosen:
            data.pop(name, None)
        data.update(former)
        flags.no_prompt_history = noted


def _require_known(setting: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1, 0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise ConfigError(f"preview.{setting}: the WebUI has no {name!r}; {remedy}")
