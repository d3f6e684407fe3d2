"""AUTOMATIC1111's WebUI: its loaded model, lent to the core."""

# pyright: reportMissingImports=false

from pathlib import Path
from typing import Any

import torch
from modules import devices, lowvram, sd_models, shared
from torch import nn

from ...core.session import LiveFacts, LiveModel
from .loan import Loan
from .webui_common import (
    AutomaticHost,
    lora_extension,
    no_checkpoint,
    selected_checkpoint,
    text_metadata,
)

_NAMES = "network_current_names"  # of the LoRAs that a layer's weights hold, put there by the host
_ZERO_SNR = "Zero Terminal SNR"  # of the host's setting for the noise schedule


class WebUI(AutomaticHost):
    """The WebUI of AUTOMATIC1111."""

    title = "WebUI"

    def loan(self) -> Loan:
        """The host loads its model when it is first asked for; it prints why it could not."""
        model = shared.sd_model
        if model is None:
            raise no_checkpoint(self.title)
        return WebUILoan(model)

    def device(self) -> torch.device:
        """Where the host computes."""
        return devices.device

    def loaded_checkpoint(self) -> str | None:
        """The file of the model that is loaded or, before its first use, selected."""
        model = sd_models.model_data.sd_model
        info = getattr(model, "sd_checkpoint_info", None) or selected_checkpoint()
        return str(Path(info.filename).resolve()) if info is not None else None


class WebUILoan(Loan):
    """`shared.sd_model`, whose LoRAs are merged in place and restored from copies."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._hash = model.sd_model_hash
        self._merged: list[tuple[nn.Module, object]] = []
        self._networks: list[Any] = []

    def live(self) -> LiveModel:
        """All parts by a single file's names, the host's wrappers passed over; SDXL's one by one.

        The host holds SDXL's text encoders under two names, `conditioner` and `cond_stage_model`.
        """
        info = self._model.sd_checkpoint_info
        zero_snr = True if shared.opts.sd_noise_schedule == _ZERO_SNR else None
        facts = LiveFacts(
            name=info.name_for_extra,
            metadata=text_metadata(info.metadata),
            path=Path(info.filename),
            sha256=info.sha256,
            prediction="v" if self._model.parameterization == "v" else "epsilon",
            zero_terminal_snr=zero_snr,
            prepared=self.plain,
        )
        if not self._model.is_sdxl:
            return LiveModel.of_checkpoint(self._model, facts)
        first, second, *_ = self._model.conditioner.embedders
        parts = {
            "unet": self._model.model.diffusion_model,
            "vae": self._model.first_stage_model,
            "text_encoder": _inner(first),
            "text_encoder_2": _inner(second),
        }
        return LiveModel(parts=parts, facts=facts)

    def is_current(self) -> bool:
        """The host loads another file into the same modules, so the file counts too."""
        model = sd_models.model_data.sd_model
        return model is self._model and model.sd_model_hash == self._hash

    def networks(self) -> tuple[nn.Module, ...]:
        """SDXL's text encoders are in its conditioner."""
        texts = self._model.conditioner if self._model.is_sdxl else self._model.cond_stage_model
        return self._model.model.diffusion_model, texts

    def take_out(self) -> None:
        """Restore the layers that hold LoRAs; in low-memory modes all parts go to the CPU."""
        if self._model.lowvram:
            lowvram.send_everything_to_cpu()
        extension = lora_extension()
        if extension is None:
            return
        self._merged = [
            (module, names) for module in self._model.modules() if (names := _names(module))
        ]
        self._networks = list(extension.loaded_networks)
        extension.loaded_networks.clear()
        self._apply(extension)

    def put_back(self) -> None:
        """Merge again what each layer held; a layer that held others is left to the host."""
        extension = lora_extension()
        if extension is None:
            return
        extension.loaded_networks[:] = self._networks
        wanted = tuple(
            (network.name, network.te_multiplier, network.unet_multiplier, network.dyn_dim)
            for network in self._networks
        )
        self._merged = [(module, names) for module, names in self._merged if names == wanted]
        self._apply(extension)

    def _apply(self, extension: Any) -> None:
        with torch.no_grad():
            for module, _ in self._merged:
                extension.network_apply_weights(module)


def _names(module: nn.Module) -> object:
    return getattr(module, _NAMES, ())


def _inner(encoder: nn.Module) -> nn.Module:
    """A text encoder without the host's wrapper, which it has while prompts may be weighted."""
    return getattr(encoder, "wrapped", encoder)
