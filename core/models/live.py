"""A base model that a host has in its memory, in words that every host can fill in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .families import Prediction
from .keymaps import UNET_PREFIX, VAE_PREFIX
from .parts import unwrapped

Weights = nn.Module | Mapping[str, Tensor]
"""A host's module, or its tensors by name."""

WHOLE = "checkpoint"
"""The name of a part that is a whole checkpoint, its tensors under a single file's names."""

_TEXT_PREFIXES = {"text_encoder": "cond_stage_model."}
_TEXT_PREFIXES_XL = {
    "text_encoder": "conditioner.embedders.0.",
    "text_encoder_2": "conditioner.embedders.1.",
}
_KNOWN = frozenset({WHOLE, "unet", "vae", *_TEXT_PREFIXES_XL})
_ENCODERS = ({"clip_l"}, {"clip_h"}, {"clip_l", "clip_g"})
_DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    }
)
_QUANTISED = "take the same model in fp16, bf16, fp32 or plain fp8 instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What a host knows of its model beside the weights.

    name: shown to users and written into files. metadata: of the model's file. path: of that file,
    which is not read. sha256: of the file, where the host has it at hand. prediction,
    zero_terminal_snr: None leaves them to detection. prepared: a context in which the weights are
    the plain base model's; it takes out a LoRA that the host has merged into them and puts it back,
    and is entered before any weight is looked at.
    """

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    sha256: str | None = None
    prediction: Prediction | None = None
    zero_terminal_snr: bool | None = None
    prepared: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """The networks of a host's base model, which are looked at and never changed.

    parts: the host's module, or its tensors by name, for "unet" and "vae" in LDM's names without
    prefix; for "text_encoder" and "text_encoder_2" (SDXL's) in transformers' or open_clip's names,
    as they are inside of the host's encoder. Or one part "checkpoint" with the names of a single
    file. `wrapped.` inside of names, where the WebUI puts its own modules around others, is passed
    over.
    """

    parts: Mapping[str, Weights]
    facts: LiveFacts

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - _KNOWN)
        if unknown:
            raise CheckpointError(
                f"{self.facts.name}: a live model has no part {unknown[0]!r}; known are "
                f"{', '.join(sorted(_KNOWN))}"
            )

    @classmethod
    def of_checkpoint(cls, model: Weights, facts: LiveFacts) -> LiveModel:
        """From a whole model with a single file's names: the WebUI's `shared.sd_model`."""
        return cls(parts={WHOLE: model}, facts=facts)

    @classmethod
    def of_modules(
        cls, diffusion_model: Weights, first_stage_model: Weights, clips: Weights, facts: LiveFacts
    ) -> LiveModel:
        """From the modules of ComfyUI and Forge.

        clips: their `cond_stage_model`, which holds the encoders as `clip_l`, `clip_g` or
        `clip_h`.
        """
        encoders = {
            name: own
            for name in ("clip_l", "clip_h", "clip_g")
            if (own := _child(clips, name)) is not None
        }
        if set(encoders) not in _ENCODERS:
            raise CheckpointError(
                f"{facts.name}: the host's text encoders are none of Stable Diffusion 1.x, 2.x or "
                "XL (clip_l; clip_h; clip_l and clip_g); load such a checkpoint"
            )
        texts = dict(zip(_TEXT_PREFIXES_XL, encoders.values(), strict=False))
        return cls(parts={"unet": diffusion_model, "vae": first_stage_model, **texts}, facts=facts)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Those parts that are modules."""
        return {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}

    def tensors(self) -> dict[str, Tensor]:
        """All of the host's tensors as they are now, by a single file's names.

        Raises CheckpointError for weights that can't be trained on: quantised in a way that only
        the host can read, or not in memory.
        """
        found: dict[str, Tensor] = {}
        for part, weights in self.parts.items():
            own = {unwrapped(name): tensor for name, tensor in _named(weights)}
            prefix = self._prefix(part, own)
            found.update({prefix + name: tensor for name, tensor in own.items()})
        for name, tensor in found.items():
            _require_readable(self.facts.name, name, tensor)
        return found

    def _prefix(self, part: str, own: Mapping[str, Tensor]) -> str:
        if part == WHOLE:
            return ""
        if part in {"unet", "vae"}:
            return {"unet": UNET_PREFIX, "vae": VAE_PREFIX}[part]
        prefixes = _TEXT_PREFIXES_XL if "text_encoder_2" in self.parts else _TEXT_PREFIXES
        # a host's encoder holds its network as `transformer` or `model`; else it is the network
        if any(name.startswith(("transformer.text_model.", "model.")) for name in own):
            return prefixes[part]
        layout = "transformer." if any(".self_attn." in name for name in own) else "model."
        return prefixes[part] + layout


def _child(weights: Weights, name: str) -> Weights | None:
    """The part of a module or of a mapping under a name, None where there is none."""
    if isinstance(weights, nn.Module):
        own = getattr(weights, name, None)
        return own if isinstance(own, nn.Module) else None
    start = f"{name}."
    return {n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)} or None


def _named(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(weights, nn.Module):
        yield from weights.items()
        return
    for name, value in weights.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            yield name, value


def _require_readable(model: str, name: str, tensor: Tensor) -> None:
    """Raise CheckpointError, with the reason, for weights that are not plain numbers in memory."""
    if type(tensor) not in {Tensor, nn.Parameter} or hasattr(tensor, "quant_state"):
        raise CheckpointError(
            f"{model}: its weight {name!r} is a {type(tensor).__name__} (GGUF, nf4 or another "
            f"format that only the host can read), which can't be trained on; {_QUANTISED}"
        )
    if tensor.device.type == "meta":
        raise CheckpointError(
            f"{model}: its weight {name!r} is not in memory, the host has put it away: load the "
            "model in the host (draw a picture), then train"
        )
    if tensor.layout != torch.strided:
        raise CheckpointError(
            f"{model}: its weight {name!r} is stored as {tensor.layout}; {_QUANTISED}"
        )
    if tensor.dtype not in _DTYPES and tensor.dim() >= 2 and not name.endswith("position_ids"):
        raise CheckpointError(
            f"{model}: its weight {name!r} is stored as {tensor.dtype}, a quantised format, which "
            f"can't be trained on; {_QUANTISED}"
        )
