"""What a real host must come through: trainings on its loaded model that end in every way."""

import base64
import ctypes
import gc
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from fastapi import FastAPI
from modules import call_queue, shared
from modules.api import models as api_models
from modules.api.api import Api
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core import session
from ...core.config import Recipe
from ...core.errors import TrainerError
from ...core.events import Event, StepDone
from ...extension.hosts.webui_common import AutomaticHost

STEPS = 3
PROMPT = "a cat"
LORA_PROMPT = PROMPT + " <lora:{}:1>"
BLOCKS = "NOFACE"
DRAWING_STEPS = 3

Found = dict[str, Any]


def drawing(size: int) -> Found:
    """The host's settings for what our previews draw by default."""
    return {
        "seed": 1,
        "steps": DRAWING_STEPS,
        "width": size,
        "height": size,
        "cfg_scale": 7,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
    }


class Subject(ABC):
    """A host that runs in this process, as the scenarios need it."""

    host: AutomaticHost
    size: int = 64

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the host's loaded model, U-Net, VAE and text encoders."""

    def __init__(self) -> None:
        self._api = Api(FastAPI(), call_queue.queue_lock)

    def picture(self, prompt: str, **others: Any) -> Image.Image:
        """One picture through the host's API, all of its scripts and ours at work."""
        request = api_models.StableDiffusionTxt2ImgProcessingAPI(
            prompt=prompt, **{**drawing(self.size), **others}
        )
        answer = self._api.text2imgapi(request)
        return Image.open(io.BytesIO(base64.b64decode(answer.images[0])))

    @abstractmethod
    def change_checkpoint(self) -> None:
        """Load the other checkpoint as the page's menu does."""

    @abstractmethod
    def interrupt(self) -> None:
        """Press the host's button."""


class Scenarios:
    """Runs trainings in one host and tells what is different afterwards."""

    def __init__(self, subject: Subject, folder: Path, checkpoint: Path) -> None:
        self._subject, self._folder, self._checkpoint = subject, folder, checkpoint
        self._write_dataset()

    def run(self, names: Sequence[str], path: Path, found: Found | None = None) -> None:
        """Write what the scenarios of these names find, in this order, each as it is done."""
        report: Found = dict(found or {})
        for name in names:
            report[name] = getattr(self, name)()
            path.write_text(json.dumps(report))

    # ---- the ways in which a training ends -----------------------------------------------------

    def trained(self) -> Found:
        """To the end."""
        return self._around(lambda: self._train("trained"))

    def stopped(self) -> Found:
        """By the host's Interrupt button, after the first step."""
        return self._around(lambda: self._train("stopped", at_first=self._subject.interrupt))

    def failed(self) -> Found:
        """By an error in the middle."""

        def fail() -> None:
            raise MemoryError("out of memory")

        return self._around(lambda: self._train("failed", at_first=fail))

    def rested(self) -> Found:
        """With a picture drawn by the host in between; the result is that of `trained`."""
        drawn = []

        def rest() -> None:
            with self._subject.host.rest():
                drawn.append(self._subject.picture(PROMPT))

        found = self._around(lambda: self._train("rested", at_first=rest))
        first = self._subject.picture(PROMPT)
        found["picture while resting"] = distance(drawn[0], first)
        found["network differs"] = self._unlike_trained("rested")
        return found

    def merged(self) -> Found:
        """With a LoRA in the host's weights: out for the training, and in again after it."""
        plain = self._digests()
        name = self._write_strong_lora()
        prompt = LORA_PROMPT.format(name)
        self._subject.picture(prompt)
        seen: Found = {}

        def look() -> None:
            seen["differs within"] = not_equal(self._digests(), plain)

        found = self._around(lambda: self._train("merged", at_first=look), prompt)
        self._subject.picture(prompt)
        found["merged layers"] = len(not_equal(self._digests(), plain))
        found["picture changed by the LoRA"] = distance(
            self._subject.picture(PROMPT), self._subject.picture(prompt)
        )
        self._subject.picture(PROMPT)
        return {**found, **seen, "network differs": self._unlike_trained("merged")}

    def drawn(self) -> Found:
        """Previews on the borrowed model beside the host's own pictures of the same seed."""
        name = self._write_strong_lora()
        recipe = self._recipe("drawn")
        request = session.grid_request(recipe, name)
        with self._subject.host.borrow(recipe.base, recipe.memory) as base:
            network = session.open_network(base, self._file(name))
            none, whole, some = session.preview(base, network, request).cells[0]
        otherwise = self._seeded_otherwise(recipe, name)
        plain = self._subject.picture(PROMPT)
        with_lora = self._subject.picture(LORA_PROMPT.format(name))
        tagged = self._subject.picture(PROMPT + f" <lora:{name}:1:lbw={BLOCKS}>")
        again = self._subject.picture(LORA_PROMPT.format(name))
        return {
            "plain differs": distance(none, plain),
            "with LoRA differs": distance(whole, with_lora),
            "LoRA changes": distance(plain, with_lora),
            "with blocks differs": distance(some, tagged),
            "blocks change": distance(tagged, with_lora),
            "without blocks again differs": distance(again, with_lora),
            **otherwise,
        }

    def _seeded_otherwise(self, recipe: Recipe, name: str) -> Found:
        """The same with noise as a GPU of NVIDIA makes it, a setting of the host's."""
        found: Found = {}
        former = shared.opts.data.get("randn_source", "GPU")
        for source in ("NV", "CPU"):
            shared.opts.data["randn_source"] = source
            try:
                with self._subject.host.borrow(recipe.base, recipe.memory) as base:
                    network = session.open_network(base, self._file(name))
                    request = session.grid_request(recipe, name)
                    preview = session.preview(base, network, request).cells[0][0]
                found[source] = preview, self._subject.picture(PROMPT)
            finally:
                shared.opts.data["randn_source"] = former
        return {
            "seeds differ": [distance(*pair) for pair in found.values()],
            "seeds change": distance(*(preview for preview, _ in found.values())),
        }

    def drawn_by_host(self) -> Found:
        """Previews by the host's own sampler, beside its pictures with the saved file."""
        name = self._write_strong_lora()
        prompt = "a (cat:1.3) [in the sea]"
        found: Found = {}

        def draw() -> str:
            # the precision of the training is none of the host's business
            for chosen in (("Euler a", "Automatic", "auto"), ("Heun", "Karras", "bf16")):
                found[f"{chosen[0]} differs"] = self._by_host(name, prompt, *chosen)
            self._subject.picture(prompt)  # the host takes its LoRAs out
            return ""

        found |= self._around(draw, prompt)
        return {**found, "refused": self._refused_samplers(name), **self._samples(name)}

    def _by_host(
        self, name: str, prompt: str, sampler: str, scheduler: str, precision: str
    ) -> list[int]:
        """How far previews are from the host's pictures: of the base, whole, and by blocks.

        Then how much the LoRA changes, and how much the host's picture differs after them.
        """
        host, chosen = self._subject.host, {"sampler_name": sampler, "scheduler": scheduler}
        plain = self._subject.picture(prompt, **chosen)
        self._subject.picture(f"<lora:{name}:1>", **chosen)  # left merged while previews are drawn
        recipe = self._recipe(
            "by-host", prompt, precision, host_sampler=sampler, host_scheduler=scheduler
        )
        with host.borrow(recipe.base, recipe.memory) as base:
            network = session.open_network(base, self._file(name))
            request = session.grid_request(recipe, name)
            previews = session.preview(base, network, request).cells[0]
        after = self._subject.picture(prompt, **chosen)
        tags = ("", f"<lora:{name}:1>", f"<lora:{name}:1:lbw={BLOCKS}>")
        pictures = [self._subject.picture(f"{prompt}{tag}", **chosen) for tag in tags]
        return [
            *(distance(one, other) for one, other in zip(previews, pictures, strict=True)),
            distance(plain, pictures[1]),
            distance(after, plain),
        ]

    def _refused_samplers(self, name: str) -> list[str]:
        """What is said where the host has no such sampler or schedule."""
        said = []
        for sampler, scheduler in (("Eulr a", ""), ("Euler a", "Karas")):
            recipe = self._recipe("by-host", host_sampler=sampler, host_scheduler=scheduler)
            try:
                with self._subject.host.borrow(recipe.base, recipe.memory) as base:
                    network = session.open_network(base, self._file(name))
                    session.preview(base, network, session.grid_request(recipe, name))
            except TrainerError as error:
                said.append(str(error))
        return said

    def _samples(self, name: str) -> Found:
        """Samples on the way by the host's sampler: the training is the same, to the bit.

        The last one shows the network as it was saved.
        """
        chosen = {"sampler_name": "Euler a", "scheduler": "Automatic"}
        error = self._train("sampled", host_sampler="Euler a")
        if error:
            return {"sampled": error}
        samples = sorted(self._file("sampled").parent.glob("sampled-samples/*.png"))
        shown = [Image.open(path) for path in samples]
        saved = self._subject.picture(f"{PROMPT} <lora:sampled:1>", **chosen)
        return {
            "sampled": error,
            "samples": len(shown),
            "last sample differs": distance(shown[-1], saved) if shown else None,
            "network differs": self._unlike_trained("sampled"),
        }

    def changed(self) -> Found:
        """With another checkpoint loaded while the training rests: it ends, and all is saved."""
        return self._change("changed", self._subject.change_checkpoint)

    def _change(self, name: str, change: Callable[[], None]) -> Found:
        def change_while_resting() -> None:
            with self._subject.host.rest():
                change()

        error = self._train(name, at_first=change_while_resting)
        files = sorted(self._file(name).parent.glob(f"{name}*"))
        return {"error": error, "files": [place.name for place in files]}

    # ---- what they are made of ----------------------------------------------------------------

    def _around(self, work: Callable[[], str], prompt: str = PROMPT) -> Found:
        """Do the work; what of the host's model and picture is different afterwards."""
        first = self._subject.picture(prompt)
        before, facts = self._digests(), facts_of(self._subject.tensors())
        memory, on_gpu = resident(), bytes_on_gpu()
        error = work()
        after = facts_of(self._subject.tensors())
        return {
            "error": error,
            "memory grows": round(resident() / memory - 1, 4),
            "GPU memory grows": bytes_on_gpu() - on_gpu,
            "weights differ": not_equal(self._digests(), before),
            "facts differ": [name for name, own in after.items() if own != facts[name]],
            "picture differs": distance(self._subject.picture(prompt), first),
        }

    def _digests(self) -> dict[str, str]:
        return digests(self._subject.tensors())

    def _unlike_trained(self, name: str) -> list[str]:
        own, other = (digests(load_file(self._file(each))) for each in ("trained", name))
        return not_equal(own, other)

    def _train(
        self, name: str, at_first: Callable[[], None] | None = None, host_sampler: str = ""
    ) -> str:
        """Train on the host's model; the error that it ended in, or nothing.

        at_first: done at the first step. host_sampler: draws a sample after each step, if given.
        """
        recipe = self._recipe(name, host_sampler=host_sampler)
        host = self._subject.host
        own_error = ""

        def on_event(event: Event) -> None:
            host.show(event)
            if isinstance(event, StepDone) and event.step == 1 and at_first is not None:
                at_first()

        try:
            plan = session.make_plan(recipe)
            with host.borrow(recipe.base, recipe.memory) as base:
                session.run(plan, base, on_event=on_event, stop=host.wants_stop)
        except (TrainerError, MemoryError) as error:
            own_error = f"{type(error).__name__}: {error}"
        return own_error

    def _recipe(
        self, name: str, prompt: str = PROMPT, precision: str = "auto", **preview: str
    ) -> Recipe:
        path = self._folder / f"{name}.json"
        settings = {
            "base": {"checkpoint": str(self._checkpoint)},
            "dataset": {"folder": str(self._folder / "pictures"), "resolution": self._subject.size},
            "network": {"rank": 2, "alpha": 1},
            "training": {"max_steps": STEPS, "batch_size": 1},
            "memory": {"precision": precision},
            "preview": {
                "prompts": [prompt],
                "every": 1 if preview.get("host_sampler") else 0,
                **preview,
                "presets": ["NONE", "ALL", BLOCKS],
                "steps": DRAWING_STEPS,
                "width": self._subject.size,
                "height": self._subject.size,
            },
            "output": {"name": name, "folder": str(self._subject.host.folders().networks)},
        }
        path.write_text(json.dumps(settings))
        return Recipe.load(path)

    def _file(self, name: str) -> Path:
        return self._subject.host.folders().networks / f"{name}.safetensors"

    def _write_dataset(self) -> None:
        folder = self._folder / "pictures" / "2_momo"
        folder.mkdir(parents=True, exist_ok=True)
        chance = np.random.default_rng(1)
        side = self._subject.size
        for number in range(2):
            pixels = chance.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text("momo")

    def _write_strong_lora(self) -> str:
        """A LoRA that is seen in every picture; its name."""
        chance = torch.Generator().manual_seed(2)
        tensors = {
            name: tensor if name.endswith(".alpha") else randn_like(tensor, chance)
            for name, tensor in load_file(self._file("trained")).items()
        }
        save_file(tensors, self._file("strong"), {"ss_output_name": "strong"})
        return "strong"


def randn_like(tensor: Tensor, chance: torch.Generator) -> Tensor:
    """Numbers large enough to be seen, and no larger.

    Random layers with a much stronger network turn into a picture what hosts round otherwise.
    """
    return (0.15 * torch.randn(tensor.shape, generator=chance)).to(tensor.dtype)


def resident() -> int:
    """Bytes of this process in memory, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def bytes_on_gpu() -> int:
    """Bytes that all tensors of this process take on the GPU."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """What each tensor holds, to the bit: NaN and -0 count."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        found[name] = hashlib.sha256(whole.cpu().numpy().data).hexdigest()
    return found


def not_equal(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of tensors that are not the same to the bit, or only in one of the two."""
    return sorted({name for name, _ in one.items() ^ other.items()})


def facts_of(tensors: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """How each tensor takes part in autograd, and where it lies."""
    return {
        name: tuple(
            str(fact)
            for fact in (tensor.device, tensor.dtype, tensor.requires_grad, tensor.grad is None)
        )
        for name, tensor in tensors.items()
    }


def distance(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, 0 to 255."""
    first, second = (np.asarray(picture.convert("RGB")).astype(int) for picture in (one, other))
    return int(np.abs(first - second).max())
