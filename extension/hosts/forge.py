"""Forge: its loaded model, lent to the core."""

# pyright: reportMissingImports=false

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from backend import memory_management
from modules import sd_models
from modules_forge import main_entry, main_thread
from torch import nn

from ...core.errors import CheckpointError
from ...core.session import LiveFacts, LiveModel
from .loan import Loan
from .webui_common import (
    AutomaticHost,
    no_checkpoint,
    selected_checkpoint,
    text_metadata,
)

_PREDICTIONS: dict[str, Literal["epsilon", "v"]] = {"epsilon": "epsilon", "v_prediction": "v"}


class Forge(AutomaticHost):
    """Stable Diffusion WebUI Forge."""

    title = "Forge"

    def loan(self) -> Loan:
        """The host loads its model at the first picture; here it is loaded where it would be."""
        if selected_checkpoint() is None:
            raise no_checkpoint(self.title)
        if not sd_models.model_data.forge_loading_parameters:
            main_entry.refresh_model_loading_parameters()
        if main_thread.run_and_wait_result(sd_models.forge_model_reload) is None:
            raise CheckpointError(
                f"{self.title} can't load its checkpoint ({main_thread.last_exception}); choose "
                "another one at the top of the page"
            )
        return ForgeLoan(sd_models.model_data.get_sd_model())

    def device(self) -> torch.device:
        """Where the host computes."""
        return memory_management.get_torch_device()

    def loaded_checkpoint(self) -> str | None:
        """The file that is selected; the host loads it at its first use."""
        info = selected_checkpoint()
        return str(Path(info.filename).resolve()) if info is not None else None


class ForgeLoan(Loan):
    """`forge_objects`, whose loaders replace a layer's weight by a merged one and keep it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._merged: list[tuple[Any, dict[Any, Any]]] = []

    def live(self) -> LiveModel:
        """The networks of the model without any patch; clones of a patcher share them."""
        info = self._model.sd_checkpoint_info
        objects = self._model.forge_objects_original
        unet = objects.unet.model
        predictor = getattr(unet, "predictor", None)
        facts = LiveFacts(
            name=info.name_for_extra,
            metadata=text_metadata(info.metadata),
            path=Path(info.filename),
            sha256=info.sha256,
            prediction=_PREDICTIONS.get(getattr(predictor, "prediction_type", "")),
            zero_terminal_snr=True if getattr(unet.config, "ztsnr", False) else None,
            prepared=self.plain,
        )
        return LiveModel.of_modules(
            unet.diffusion_model,
            objects.vae.first_stage_model,
            objects.clip.cond_stage_model,
            facts,
        )

    def is_current(self) -> bool:
        """A change of checkpoint makes a new object, and happens at the next picture."""
        data = sd_models.model_data
        pending = data.forge_hash != str(data.forge_loading_parameters)
        return data.get_sd_model() is self._model and not pending

    def networks(self) -> tuple[nn.Module, ...]:
        """Clones of a patcher share them."""
        objects = self._model.forge_objects_original
        return objects.unet.model.diffusion_model, objects.clip.cond_stage_model

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Without the LoRAs of the host's last picture, which it would merge again."""
        model = self._model
        names = ("forge_objects", "forge_objects_after_applying_lora")
        former = {name: getattr(model, name) for name in names}
        for name in names:
            setattr(model, name, model.forge_objects_original.shallow_copy())
        try:
            yield
        finally:
            for name, objects in former.items():
                setattr(model, name, objects)
            # the host takes a patcher that it has loaded for one whose LoRAs, here none, are in the
            # weights; those that are put back are another patcher's
            for patcher in self._patchers():
                memory_management.unload_model_clones(patcher)

    def take_out(self) -> None:
        """Have the loaders put the kept weights back."""
        self._merged = []
        for patcher in self._patchers():
            loader = patcher.model.lora_loader
            if loader.loaded_hash != _hash({}):
                self._merged.append((patcher, self._loaded_patches(loader)))
                loader.refresh(lora_patches={}, offload_device=patcher.offload_device)

    def put_back(self) -> None:
        """Merge again what was merged."""
        for patcher, patches in self._merged:
            loader = patcher.model.lora_loader
            loader.refresh(lora_patches=patches, offload_device=patcher.offload_device)
        self._merged = []

    def _patchers(self) -> tuple[Any, Any]:
        objects = self._model.forge_objects_original
        return objects.unet, objects.clip.patcher

    def _loaded_patches(self, loader: Any) -> dict[Any, Any]:
        """The patches that a loader has merged: those of the clone with its hash.

        None where the host has already made others, which it merges at its next picture.
        """
        model = self._model
        for objects in (model.forge_objects, model.forge_objects_after_applying_lora):
            for patcher in (objects.unet, objects.clip.patcher):
                mine = patcher.model.lora_loader is loader
                if mine and _hash(patcher.lora_patches) == loader.loaded_hash:
                    return patcher.lora_patches
        return {}


def _hash(patches: dict[Any, Any]) -> str:
    """How a loader remembers what it has merged."""
    return str(list(patches.keys()))
