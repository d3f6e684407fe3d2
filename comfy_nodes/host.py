"""ComfyUI itself: the only file that imports it."""
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import gc
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import comfy.lora
import comfy.lora_convert
import comfy.model_management as management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import folder_paths
import numpy as np
import torch
from aiohttp import web
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..core.errors import CheckpointError, FileError, TrainerError
from ..core.session import BaseModel, LiveFacts, LiveModel
from .live_denoiser import LiveDenoiser
from .protocol import Facts, Graph, Patches, Sampling, Source

DATASETS = "lora_loop_datasets"
"""The key in extra_model_paths.yaml under which users name further folders of datasets."""

_FAMILIES = {
    comfy.supported_models.SD15: "sd1",
    comfy.supported_models.SD20: "sd2",
    comfy.supported_models.SDXL: "sdxl",
}
_LATENT_STRIDE = 8
_NO_CLIP = (
    "CLIP is empty: the checkpoint holds no text encoder; load one beside it (CLIPLoader, "
    "DualCLIPLoader for SDXL), or take a checkpoint that has one"
)


class ComfyProgress:
    """One node's progress bar, its text and its events for the page."""

    def __init__(self, node: str | None) -> None:
        self._node, self._bar = node, comfy.utils.ProgressBar(1, node)

    def bar(self, done: int, total: int, picture: Image.Image | None = None) -> None:
        """Move the bar; a pressed Cancel is left for `is_cancelled` to find."""
        preview = None if picture is None else ("JPEG", picture, 512)
        try:
            self._bar.update_absolute(done, total, preview)
        except management.InterruptProcessingException:
            management.interrupt_current_processing(True)

    def say(self, text: str) -> None:
        """Show text on the node; frontends before 1.17 ignore it."""
        server = PromptServer.instance
        if self._node is not None and hasattr(server, "send_progress_text"):
            server.send_progress_text(text, self._node)

    def send(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell the page, for the charts and panels of `web/`."""
        message = {"node": self._node, **data}
        PromptServer.instance.send_sync(f"lora_loop.{event}", message)


class ComfyHost:
    """Implements `protocol.Host`."""

    cancelled = management.InterruptProcessingException

    def folder(self, kind: Literal["input", "output", "temp"]) -> Path:
        """One of ComfyUI's own folders."""
        return Path(folder_paths.get_directory_by_type(kind))

    def dataset_roots(self) -> Sequence[Path]:
        """ComfyUI's input and output, and what extra_model_paths.yaml adds."""
        further = folder_paths.folder_names_and_paths.get(DATASETS, ((), ()))[0]
        return [self.folder("input"), self.folder("output"), *map(Path, further)]

    def lora_folder(self) -> Path:
        """The first of ComfyUI's LoRA folders."""
        return Path(folder_paths.get_folder_paths("loras")[0])

    def lora_names(self) -> Sequence[str]:
        """The LoRA files that ComfyUI knows."""
        return folder_paths.get_filename_list("loras")

    def lora_path(self, name: str) -> Path:
        """The file of one of them."""
        path = folder_paths.get_full_path("loras", name)
        if path is None:
            raise FileError(
                f"there is no LoRA {name!r} in ComfyUI's lora folders; refresh the page"
            )
        return Path(path)

    def model_folders(self, kind: str) -> Sequence[Path]:
        """The registered folders of a kind of model, and models/KIND in any case."""
        registered = folder_paths.folder_names_and_paths.get(kind, ((), ()))[0]
        return [*map(Path, registered), Path(folder_paths.models_dir) / kind]

    def room_for(self, count: int) -> torch.device:
        """ComfyUI's device; its own management decides which models make room."""
        device = management.get_torch_device()
        management.free_memory(count, device)
        return device

    def sampler_names(self) -> Sequence[str]:
        """The samplers of a KSampler."""
        return comfy.samplers.KSampler.SAMPLERS

    def scheduler_names(self) -> Sequence[str]:
        """The schedulers of a KSampler."""
        return comfy.samplers.KSampler.SCHEDULERS

    def serve(self, path: str, answer: Callable[[Mapping[str, str]], Mapping[str, Any]]) -> None:
        """Answer GET requests in a thread of their own: reading a dataset takes seconds."""

        async def respond(request: web.Request) -> web.Response:
            try:
                found = await asyncio.to_thread(answer, request.query)
            except TrainerError as error:
                return web.json_response({"error": str(error)}, status=400)
            return web.json_response(found)

        PromptServer.instance.routes.get(path)(respond)

    def progress(self, node: str | None) -> ComfyProgress:
        """The display of a running node."""
        return ComfyProgress(node)

    def is_cancelled(self) -> bool:
        """Whether the user has pressed Cancel; it stays pressed."""
        return bool(management.processing_interrupted())

    def raise_if_cancelled(self) -> None:
        """Hand a pressed Cancel on to ComfyUI, which takes it as done."""
        management.throw_exception_if_processing_interrupted()

    def family(self, model: Any) -> str:
        """What is trained here; another kind is named as ComfyUI calls it."""
        config = model.model.model_config
        family = _FAMILIES.get(type(config))
        if family is None:
            raise CheckpointError(
                f"the MODEL is of ComfyUI's kind {type(config).__name__}, which can't be trained "
                "here; load a Stable Diffusion 1.x, 2.x or XL checkpoint"
            )
        return family

    def facts(self, graph: Graph) -> Facts:
        """What MODEL and CLIP say of themselves."""
        if graph.clip is None:
            raise CheckpointError(_NO_CLIP)
        self.family(graph.model)
        sampling = graph.model.get_model_object("model_sampling")
        is_v = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
        if not (is_v or isinstance(sampling, comfy.model_sampling.EPS)):
            kinds = ", ".join(kind.__name__ for kind in type(sampling).__mro__[1:3])
            raise CheckpointError(
                f"the MODEL samples by {kinds}, neither epsilon nor v; take out the node that "
                "changes its sampling before the training"
            )
        layer = graph.clip.layer_idx
        return Facts(
            prediction="v" if is_v else "epsilon",
            zero_terminal_snr=bool(getattr(sampling, "zsnr", False)),
            clip_skip=1 if layer is None or layer >= 0 else -layer,
            patches=len(graph.model.patches) + len(graph.clip.patcher.patches),
        )

    @contextmanager
    def borrow(self, graph: Graph, source: Source) -> Iterator[tuple[LiveModel, torch.device]]:
        """Load MODEL, CLIP and VAE whole, and open the gradient scope: nodes run without one.

        Clones share their weights, into which ComfyUI writes patches: only after loading are they
        those of these very objects, with the patches or without.
        """
        facts = self.facts(graph)
        owners = [_patcher(owner, source.patches) for owner in (graph.model, graph.clip.patcher)]
        with _explained_memory("loading the model for the training"):
            management.load_models_gpu([*owners, graph.vae.patcher], force_full_load=True)
        live = LiveModel.of_modules(
            graph.model.model.diffusion_model,
            graph.vae.first_stage_model,
            graph.clip.cond_stage_model,
            LiveFacts(
                name=source.checkpoint or "the graph's MODEL",
                path=_checkpoint_path(source.checkpoint),
                prediction=facts.prediction,
                zero_terminal_snr=facts.zero_terminal_snr,
            ),
        )
        try:
            with (
                _explained_memory("training"),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                yield live, graph.model.load_device
        finally:
            gc.collect()
            management.soft_empty_cache()

    def patched(
        self, graph: Graph, tensors: Mapping[str, Tensor], strength: Callable[[str], float]
    ) -> Graph:
        """Clones of MODEL and CLIP with a LoRA: the patches hold the tensors themselves."""
        names: dict[str, Any] = {}
        if graph.model is not None:
            names = comfy.lora.model_lora_keys_unet(graph.model.model, names)
        if graph.clip is not None:
            names = comfy.lora.model_lora_keys_clip(graph.clip.cond_stage_model, names)
        keys = sorted({name.partition(".")[0] for name in tensors})
        _require_known(keys, names, graph)
        loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), names)
        by_strength: dict[float, dict[Any, Any]] = {}
        for key in keys:
            target = names.get(key)
            if target in loaded and strength(key) != 0:
                by_strength.setdefault(strength(key), {})[target] = loaded[target]
        model = None if graph.model is None else graph.model.clone()
        clip = None if graph.clip is None else graph.clip.clone()
        for value, patches in by_strength.items():
            for owner in (model, clip):
                if owner is not None:
                    owner.add_patches(patches, value)
        return Graph(model, clip, graph.vae)

    def draw(
        self,
        graph: Graph,
        prompts: Sequence[tuple[str, str]],
        sampling: Sampling,
        on_step: Callable[[Image.Image | None], None],
    ) -> list[Image.Image]:
        """Pictures as CLIPTextEncode, KSampler and VAEDecode make them, one after the other."""
        with _explained_memory("drawing a preview"):
            conditions = [
                (_encode(graph.clip, text), _encode(graph.clip, negative))
                for text, negative in prompts
            ]
            pictures = []
            for index, (positive, negative) in enumerate(conditions):
                latent = self._sample(
                    graph.model, (positive, negative), sampling, sampling.seed + index, on_step
                )
                pictures.append(_picture(graph.vae.decode(latent)))
                on_step(pictures[-1])
            return pictures

    def draw_live(
        self,
        base: BaseModel,
        graph: Graph,
        prompts: Sequence[tuple[str, str]],
        sampling: Sampling,
    ) -> list[Image.Image]:
        """ComfyUI's sampler on the borrowed weights: nothing is loaded, patched or moved by it."""
        clip_skip = self.facts(graph).clip_skip
        model_sampling = graph.model.get_model_object("model_sampling")
        pictures = []
        with torch.no_grad():
            for index, texts in enumerate(prompts):
                denoiser = LiveDenoiser(base, model_sampling, texts, sampling.cfg, clip_skip)
                latent = self._sample_live(denoiser, base, sampling, sampling.seed + index)
                pixels = base.decode(latent).movedim(1, -1)
                pictures.append(_picture(pixels))
        return pictures

    def _sample_live(
        self, denoiser: LiveDenoiser, base: BaseModel, sampling: Sampling, seed: int
    ) -> Tensor:
        """One scaled latent (1, 4, h, w), by the steps of ComfyUI's KSampler."""
        model_sampling = denoiser.model_sampling
        steps = comfy.samplers.calculate_sigmas(model_sampling, sampling.scheduler, sampling.steps)
        sigmas = steps.to(base.device)
        empty = _empty_latent(sampling)
        noise = comfy.sample.prepare_noise(empty, seed).to(base.device)
        start = math.isclose(float(model_sampling.sigma_max), float(sigmas[0]), rel_tol=1e-5)
        start = start or float(sigmas[0]) > float(model_sampling.sigma_max)
        xt = model_sampling.noise_scaling(sigmas[0], noise, empty.to(base.device), start)
        sampler = comfy.samplers.ksampler(sampling.sampler)

        def callback(_state: Mapping[str, Any]) -> None:
            self.raise_if_cancelled()

        latent = sampler.sampler_function(
            denoiser,
            xt,
            sigmas,
            extra_args={"seed": seed},
            callback=callback,
            disable=True,
            **sampler.extra_options,
        )
        return model_sampling.inverse_noise_scaling(sigmas[-1], latent)

    def _sample(
        self,
        model: Any,
        conditions: tuple[Any, Any],
        sampling: Sampling,
        seed: int,
        on_step: Callable[[Image.Image | None], None],
    ) -> Tensor:
        """One latent (1, 4, h, w)."""
        empty = comfy.sample.fix_empty_latent_channels(model, _empty_latent(sampling))

        def callback(_step: int, _x0: Tensor, _x: Tensor, _total: int) -> None:
            self.raise_if_cancelled()
            on_step(None)

        return comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(empty, seed),
            sampling.steps,
            sampling.cfg,
            sampling.sampler,
            sampling.scheduler,
            *conditions,
            empty,
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )


def _empty_latent(sampling: Sampling) -> Tensor:
    sides = sampling.height // _LATENT_STRIDE, sampling.width // _LATENT_STRIDE
    return torch.zeros(1, 4, *sides, device=management.intermediate_device())


def _checkpoint_path(name: str) -> Path | None:
    path = folder_paths.get_full_path("checkpoints", name) if name else None
    return None if path is None else Path(path)


def _patcher(owner: Any, patches: Patches) -> Any:
    """The object whose patches are to be in the weights when it is loaded."""
    if patches == "part of the base" or not owner.patches:
        return owner
    plain = owner.clone()
    plain.patches = {}
    plain.patches_uuid = uuid.uuid4()
    return plain


def _require_known(keys: list[str], names: Mapping[str, Any], graph: Graph) -> None:
    """Raise FileError where a LoRA is not for this model; one half of a graph may be missing."""
    halves = {"lora_unet_": graph.model, "lora_te": graph.clip}
    absent = tuple(start for start, owner in halves.items() if owner is None)
    unknown = [key for key in keys if key not in names and not key.startswith(absent)]
    if unknown:
        raise FileError(
            f"{len(unknown)} of the LoRA's {len(keys)} layers are not in this model "
            f"({', '.join(unknown[:3])}); connect the MODEL and CLIP that it was trained for"
        )


def _encode(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _picture(pixels: Tensor) -> Image.Image:
    """(1, H, W, 3) in [0, 1] as a picture, rounded as ComfyUI's SaveImage does."""
    levels = 255.0 * pixels[0].cpu().numpy()
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@contextmanager
def _explained_memory(doing: str) -> Iterator[None]:
    """Out of memory in the user's words; what ComfyUI holds is given back first."""
    try:
        yield
    except TrainerError:
        raise
    except (management.OOM_EXCEPTION, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        message = (
            f"out of memory while {doing} ({str(error).splitlines()[0]}): switch on "
            "gradient_checkpointing, set batch_size to 1, take a lower resolution, or close other "
            "programs. What was trained so far is kept: queue again with start = resume"
        )
        management.unload_all_models()
        management.soft_empty_cache()
        raise TrainerError(message) from None


def _is_out_of_memory(error: BaseException) -> bool:
    out_of_memory = (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, out_of_memory) or "allocate memory" in str(error)
