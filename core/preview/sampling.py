"""Drawing pictures with a base model, and with whatever network is attached to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..adapters.applied import networks_on
from ..config.preview import PreviewConfig
from ..diffusion.samplers import SAMPLERS, SampleRequest, sample
from ..diffusion.schedule import NoiseSchedule, scaled_linear
from ..diffusion.seeds import SEEDS
from ..errors import ConfigError
from ..events import OnEvent, PhaseProgress, PhaseStarted, StopFlag, ignore, never
from ..log import logger
from ..models.artist import Artist, Brief
from ..models.base_model import BaseModel
from ..models.text import Condition, TextOptions

LATENT_CHANNELS = 4
LATENT_STRIDE = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a picture should show, and what it should not."""

    text: str
    negative: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSettings:
    """How pictures are drawn; the picture with index i of a list gets the seed `seed` + i.

    width, height: pixels, multiples of 8; 0 means the base model's own resolution. host_sampler:
    of the host that has lent the base model, in place of `sampler`, with its scheduler. guidance: 1
    leaves the negative prompt out. text: how prompts are read. batch_size: pictures in one call of
    the model. A picture is repeated bit by bit with the same batch_size; with another one its last
    bits may differ, because a library's kernels add up in another order.
    """

    width: int = 0
    height: int = 0
    sampler: str = "dpmpp_2m_karras"
    host_sampler: str = ""
    host_scheduler: str = ""
    steps: int = 20
    guidance: float = 7.0
    seed: int = 1
    text: TextOptions = field(default_factory=TextOptions)
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side < 0 or side % LATENT_STRIDE:
                raise ConfigError(
                    f"preview.{name} is {side}; it must be a multiple of {LATENT_STRIDE} pixels, "
                    "or 0 for the base model's own"
                )
        if not math.isfinite(self.guidance):
            raise ConfigError(f"preview.guidance is {self.guidance}; it must be a number")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be 1 or more")
        self.request()

    @classmethod
    def of(cls, preview: PreviewConfig, text: TextOptions | None = None) -> DrawSettings:
        """Take the settings from a recipe's section; text: how its captions are read."""
        return cls(
            width=preview.width,
            height=preview.height,
            sampler=preview.sampler,
            host_sampler=preview.host_sampler,
            host_scheduler=preview.host_scheduler,
            steps=preview.steps,
            guidance=preview.guidance,
            seed=preview.seed,
            text=text or TextOptions(),
        )

    def request(self) -> SampleRequest:
        """Name the sampler and its steps; ConfigError where there is no such sampler."""
        return SampleRequest(self.sampler, self.steps)

    @property
    def sampler_titles(self) -> tuple[str, str]:
        """What people call the sampler, and its schedule where that has a name."""
        if self.host_sampler:
            return self.host_sampler, self.host_scheduler
        own = SAMPLERS[self.sampler]
        return own.title, own.schedule_title

    def artist(self, base: BaseModel) -> Artist | None:
        """Give who draws with the host's sampler, None where our own is wanted.

        ConfigError where the host's is, and there is no host or no such sampler.
        """
        if not self.host_sampler:
            return None
        if base.artist is None:
            raise ConfigError(
                f"preview.host_sampler is {self.host_sampler!r}: that is for the tab in the WebUI "
                "and Forge. Leave it empty here; preview.sampler draws then"
            )
        base.artist.check(self.host_sampler, self.host_scheduler)
        return base.artist

    def size(self, base: BaseModel) -> tuple[int, int]:
        """Give the pictures' width and height in pixels."""
        own = base.resolution // LATENT_STRIDE * LATENT_STRIDE
        return self.width or own, self.height or own


class Stopped(Exception):  # noqa: N818 - not an error: the caller asked for it
    """The stop flag was seen between two sampling steps; the picture in work is lost."""


class Painter:
    """Draws with one base model and one set of settings, and encodes each text once.

    on_step(n): called after each sampling step of n pictures; stop: asked before each. Networks
    that are attached are told of each step, since they may act in some of them only (`Window`).
    """

    def __init__(
        self,
        base: BaseModel,
        settings: DrawSettings,
        on_step: Callable[[int], None],
        stop: StopFlag = never,
    ) -> None:
        self._base, self._settings, self._on_step, self._stop = base, settings, on_step, stop
        self._artist = settings.artist(base)
        self._schedule: NoiseSchedule = scaled_linear(base.prediction, base.zero_terminal_snr)
        self._conditions: dict[tuple[str, Hashable], Condition] = {}

    def paint_all(
        self, prompts: Sequence[Prompt], text_state: Hashable = None
    ) -> Iterator[Image.Image]:
        """Draw a picture for each prompt with rising seeds, in batches. Raises Stopped."""
        size, seed = self._settings.batch_size, self._settings.seed
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            yield from self.paint(batch, range(seed + start, seed + start + len(batch)), text_state)

    @torch.no_grad()
    def paint(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], text_state: Hashable = None
    ) -> list[Image.Image]:
        """Draw one batch; one seed for each picture. Raises Stopped.

        text_state: which state the text encoder is in, so that texts are not encoded again in one
        that was seen before: equal states must mean equal weights.
        """
        settings = self._settings
        if self._artist is not None:
            pairs = zip(prompts, seeds, strict=True)
            return [self._by_host(self._artist, prompt, seed) for prompt, seed in pairs]
        width, height = settings.size(self._base)
        # as the host seeds its own: the same seed draws the same picture there; the row of a list's
        # seeds goes on from 0 after the largest
        noises = [self._base.seeding.noise(seed % SEEDS) for seed in seeds]
        shape = (LATENT_CHANNELS, height // LATENT_STRIDE, width // LATENT_STRIDE)
        noise = torch.stack([one(shape) for one in noises])
        begin = self._begin()
        with ExitStack() as undo:
            for network in networks_on(self._base.parts):
                undo.enter_context(network.drawing())
            undo.callback(begin, 0)
            latents = sample(
                self._guided(prompts, text_state, begin),
                noise.to(self._base.device),
                settings.request(),
                self._schedule,
                noises,
            )
        return [self._picture(latent, seed) for latent, seed in zip(latents, seeds, strict=True)]

    def _by_host(self, artist: Artist, prompt: Prompt, seed: int) -> Image.Image:
        """Draw one picture as the host does."""
        settings, begin, counted = self._settings, self._begin(), 0
        width, height = settings.size(self._base)

        def on_step(number: int) -> bool:
            nonlocal counted
            if self._stop():
                return False
            begin(number)
            if number > counted:  # some samplers call the model twice a step
                self._on_step(number - counted)
                counted = number
            return True

        brief = Brief(
            text=prompt.text,
            negative=prompt.negative,
            seed=seed % SEEDS,
            sampler=settings.host_sampler,
            scheduler=settings.host_scheduler,
            steps=settings.steps,
            guidance=settings.guidance,
            width=width,
            height=height,
            clip_skip=settings.text.clip_skip,
        )
        try:
            picture = artist.draw(brief, on_step)
        finally:
            begin(0)
        if picture is None:
            raise Stopped
        return picture

    def _guided(
        self, prompts: Sequence[Prompt], text_state: Hashable, begin: Callable[[int], None]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Make the model's function of xt and timestep, with classifier-free guidance in one call.

        Ho and Salimans 2022: output = unconditional + guidance (conditional - unconditional).
        """
        guidance = self._settings.guidance
        texts = [prompt.text for prompt in prompts]
        if guidance != 1:
            texts += [prompt.negative for prompt in prompts]
        condition = together([self._condition(text, text_state) for text in texts])
        repeats = len(texts) // len(prompts)
        steps = count(1)

        def denoise(xt: Tensor, timestep: Tensor) -> Tensor:
            if self._stop():
                raise Stopped
            begin(next(steps))
            both, times = torch.cat([xt] * repeats), torch.cat([timestep] * repeats)
            output = self._base.predict(both, times, condition)
            self._on_step(len(prompts))
            if repeats == 1:
                return output
            wanted, unwanted = output.float().chunk(2)
            return unwanted + guidance * (wanted - unwanted)

        return denoise

    def _begin(self) -> Callable[[int], None]:
        """Make a function that tells a step to every network that is attached now."""
        networks = networks_on(self._base.parts)

        def begin(step: int) -> None:
            for network in networks:
                network.at_step(step)

        return begin

    def _condition(self, text: str, text_state: Hashable) -> Condition:
        """Encode a text alone, so that it does not depend on what else is drawn."""
        key = (text, text_state)
        if key not in self._conditions:
            self._conditions[key] = self._base.encode_text([text], self._settings.text)
        return self._conditions[key]

    def _picture(self, latent: Tensor, seed: int) -> Image.Image:
        """Decode one latent (4, h, w), alone for the sake of memory."""
        pixels = self._base.decode(latent[None])[0].float()
        if not bool(torch.isfinite(pixels).all()):
            logger.warning(
                "preview with seed %d: the model gave numbers that are not finite, shown as gray; "
                "set memory.precision to fp32 or bf16, or lower the learning rates",
                seed,
            )
            pixels = pixels.nan_to_num(nan=0.5, posinf=0.5, neginf=0.5)
        levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy()))


def together(conditions: Sequence[Condition]) -> Condition:
    """Make one condition of those of single texts."""
    pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
    return Condition(
        torch.cat([condition.context for condition in conditions]),
        torch.cat(pooled) if pooled else None,
    )


class Progress:
    """Reports sampling steps of the phase "preview" as they are done."""

    def __init__(self, total: int, on_event: OnEvent) -> None:
        self._done, self._total, self._on_event = 0, total, on_event
        on_event(PhaseStarted(name="preview", total=total))

    def step(self, count: int) -> None:
        """Count `count` more."""
        self._done += count
        self._on_event(PhaseProgress(name="preview", done=self._done, total=self._total))


def draw(
    base: BaseModel,
    prompts: Sequence[Prompt],
    settings: DrawSettings,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> list[Image.Image]:
    """Draw a picture for each prompt, with whatever networks are attached to `base`.

    A picture depends on its prompt, its seed (`settings.seed` + its index) and the settings only.
    When stopped, the pictures that are done are returned.
    """
    progress = Progress(len(prompts) * settings.steps, on_event)
    painter = Painter(base, settings, progress.step, stop)
    pictures: list[Image.Image] = []
    try:
        for picture in painter.paint_all(prompts):
            pictures.append(picture)  # noqa: PERF402 - a stop in the middle keeps the first ones
    except Stopped:
        logger.info("preview stopped after %d of %d pictures", len(pictures), len(prompts))
    return pictures
