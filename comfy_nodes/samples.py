"""Pictures while a network is trained, by ComfyUI's sampler."""

from __future__ import annotations

from PIL import Image

from ..core.session import BaseModel, Network, Plan
from .protocol import Graph, Host, Sampling

_SCHEDULERS = {"dpmpp_2m_karras": ("dpmpp_2m", "karras"), "euler_a": ("euler_ancestral", "normal")}


class Painter:
    """Draws the recipe's prompts with the network as it is; remembers a Cancel for later."""

    def __init__(self, host: Host, graph: Graph, base: BaseModel, plan: Plan) -> None:
        self.error: BaseException | None = None
        self._host, self._graph, self._base = host, graph, base
        preview = plan.recipe.preview
        self._prompts = [(text, preview.negative_prompt) for text in preview.prompts]
        sampler, scheduler = _SCHEDULERS.get(preview.sampler, (preview.sampler, "normal"))
        self._sampling = Sampling(
            seed=preview.seed,
            steps=preview.steps,
            cfg=preview.guidance,
            sampler=sampler,
            scheduler=scheduler,
            width=preview.width or plan.resolution,
            height=preview.height or plan.resolution,
        )

    @property
    def cancelled(self) -> bool:
        """Whether Cancel was pressed while drawing."""
        return self.error is not None

    def __call__(self, _network: Network) -> list[Image.Image]:
        """One picture for each prompt, none where Cancel was pressed meanwhile.

        The network is attached to the base already.
        """
        try:
            return self._host.draw_live(self._base, self._graph, self._prompts, self._sampling)
        except self._host.cancelled as error:
            self.error = error  # raised again once all is saved
            return []
