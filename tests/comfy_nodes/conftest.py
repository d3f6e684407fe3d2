"""A host of the tests' own: folders in a temporary place, a thin model, and no ComfyUI."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.comfy_nodes import door
from lora_loop.comfy_nodes.protocol import Facts, Graph
from lora_loop.core.errors import CheckpointError
from lora_loop.core.session import LiveFacts, LiveModel

TESTS = Path(__file__).resolve().parents[1]


class Cancelled(Exception):  # noqa: N818 - not an error
    pass


class Shown:
    """Remembers what a node showed."""

    def __init__(self):
        self.bars, self.texts, self.events, self.pictures = [], [], [], []

    def bar(self, done, total, picture=None):
        self.bars.append((done, total))
        if picture is not None:
            self.pictures.append(picture)

    def say(self, text):
        self.texts.append(text)

    def send(self, event, data):
        self.events.append((event, data))


class FakeHost:
    """ComfyUI as far as the nodes see it. cancel_after: steps until Cancel is pressed."""

    cancelled = Cancelled

    def __init__(self, root: Path, tensors):
        self.root, self.tensors = root, tensors
        self.shown = Shown()
        self.cancel_after = None
        self.asked = 0
        self.live_draws = 0
        self.drawn = []
        self.borrowed = 0

    def folder(self, kind):
        path = self.root / kind
        path.mkdir(exist_ok=True)
        return path

    def dataset_roots(self):
        return [self.folder("input"), self.folder("output")]

    def lora_folder(self):
        return self.folder("loras")

    def lora_names(self):
        return sorted(path.name for path in self.lora_folder().glob("*.safetensors"))

    def lora_path(self, name):
        return self.lora_folder() / name

    def model_folders(self, kind):
        return [self.folder("models") / kind]

    def room_for(self, count):
        self.made_room = count
        return torch.device("cpu")

    def sampler_names(self):
        return ["euler", "dpmpp_2m"]

    def scheduler_names(self):
        return ["normal", "karras"]

    def progress(self, node):
        return self.shown

    def is_cancelled(self):
        self.asked += 1
        return self.cancel_after is not None and self.asked > self.cancel_after

    def raise_if_cancelled(self):
        if self.is_cancelled():
            self.cancel_after = None  # as ComfyUI: told once
            raise Cancelled

    def family(self, model):
        if model == "flux":
            raise CheckpointError("the MODEL is of ComfyUI's kind Flux")
        return "sd1"

    def facts(self, graph):
        self.family(graph.model)
        return Facts(prediction="epsilon", zero_terminal_snr=False, clip_skip=1, patches=0)

    @contextmanager
    def borrow(self, graph, source):
        self.borrowed += 1
        facts = LiveFacts(name="thin", metadata={"modelspec.resolution": "64x64"})
        live = LiveModel.of_checkpoint(self.tensors, facts)
        with torch.inference_mode(False), torch.enable_grad():
            yield live, torch.device("cpu")

    def patched(self, graph, tensors, strength):
        keys = sorted({name.partition(".")[0] for name in tensors})
        acting = tuple(strength(key) for key in keys)
        return Graph(("model", acting, tensors), ("clip", acting, tensors), graph.vae)

    def draw(self, graph, prompts, sampling, on_step):
        acting = graph.model[1]
        pictures = []
        for index, prompt in enumerate(prompts):
            self.raise_if_cancelled()
            self.drawn.append((acting, prompt, sampling.seed + index))
            for _ in range(sampling.steps):
                on_step(None)
            level = round(255 * min(1.0, sum(acting) / len(acting)))
            size = sampling.width, sampling.height
            pictures.append(Image.new("RGB", size, (level, sampling.seed % 256, 0)))
            on_step(pictures[-1])
        return pictures

    def draw_live(self, base, graph, prompts, sampling):
        self.live_draws += 1
        self.raise_if_cancelled()
        return [Image.new("RGB", (sampling.width, sampling.height), "green") for _ in prompts]

    def serve(self, path, answer):
        raise AssertionError("no server in these tests")


def load_helper(name: str, path: Path):
    """Import a helper module of the tests by its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def thin_tensors():
    helper = load_helper("make_checkpoint", TESTS / "core/models/make_checkpoint.py")
    return helper.sd1_tensors(helper.THIN, seed=3)


@pytest.fixture
def host(tmp_path, thin_tensors):
    own = FakeHost(tmp_path, thin_tensors)
    door.use(own)
    yield own
    door.use(None)


@pytest.fixture
def pictures(host) -> Path:
    """Four captioned pictures below the host's input folder."""
    folder = host.folder("input") / "momo" / "2_momo"
    folder.mkdir(parents=True)
    chance = np.random.default_rng(5)
    for index, (width, height) in enumerate([(64, 64), (64, 64), (96, 64), (64, 104)]):
        noise = chance.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"momo, picture {index}", encoding="utf-8")
    return folder


def defaults(node) -> dict:
    """The values that a node's widgets have at first."""
    found = {}
    for name, (kind, *rest) in node.INPUT_TYPES()["required"].items():
        options = rest[0] if rest else {}
        if "default" in options:
            found[name] = options["default"]
        elif isinstance(kind, list):
            found[name] = kind[0]
    return found
