"""A borrowed base model, with our network attached, as ComfyUI's samplers want a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.session import BaseModel, TextOptions


class LiveDenoiser:
    """A model as k-diffusion's samplers want it, over a borrowed base with our network attached.

    Samplers look for `inner_model.inner_model.model_sampling` and `inner_model.model_patcher`.
    """

    def __init__(
        self,
        base: BaseModel,
        model_sampling: Any,
        texts: tuple[str, str],
        cfg: float,
        clip_skip: int,
    ) -> None:
        self.model_sampling = model_sampling
        self.inner_model = self
        self.model_patcher = self
        self._base, self._cfg = base, cfg
        options = TextOptions(clip_skip=clip_skip)
        self._texts = base.encode_text(list(texts if cfg != 1 else texts[:1]), options)

    def get_model_object(self, name: str) -> Any:
        """What samplers ask of a patcher."""
        return getattr(self, name)

    def __call__(self, xt: Tensor, sigma: Tensor, **_ignored: Any) -> Tensor:
        """x0 for xt (1, 4, h, w) at sigma (1,), with classifier-free guidance."""
        count = len(self._texts[0])
        several, sigmas = xt.expand(count, -1, -1, -1), sigma.expand(count)
        scaled = self.model_sampling.calculate_input(sigmas, several)
        timestep = self.model_sampling.timestep(sigmas).float()
        output = self._base.predict(scaled, timestep, self._texts).float()
        x0 = self.model_sampling.calculate_denoised(sigmas, output, several)
        return x0 if count == 1 else x0[1:] + self._cfg * (x0[:1] - x0[1:])
