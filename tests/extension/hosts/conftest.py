"""A stand-in for the WebUI's modules: as much as our code asks of them."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from types import ModuleType, SimpleNamespace

import pytest
import torch

OURS = "lora_loop.extension.hosts."
FLAGS = ("listen", "share", "ngrok", "server_name", "api_auth", "enable_insecure_extension_access")


class State(SimpleNamespace):
    """The host's `shared.state`."""

    def begin(self, job: str) -> None:
        self.job, self.job_count = job, -1
        self.interrupted = self.skipped = self.stopping_generation = False

    def end(self) -> None:
        self.job = ""

    def assign_current_image(self, picture) -> None:
        self.picture = picture


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The host's modules by name; ours are imported anew over them, and forgotten afterwards."""
    pytest.importorskip("fastapi")
    lora = tmp_path / "Lora"
    lora.mkdir()
    host = SimpleNamespace(
        call_queue=SimpleNamespace(queue_lock=Lock()),
        paths_internal=SimpleNamespace(data_path=str(tmp_path)),
        processing=SimpleNamespace(),
        rng=SimpleNamespace(
            create_generator=lambda seed: torch.Generator().manual_seed(seed),
            randn_without_seed=lambda shape, generator: torch.randn(shape, generator=generator),
        ),
        sd_samplers=SimpleNamespace(
            all_samplers=[SimpleNamespace(name=name) for name in ("Euler a", "Heun", "Hidden")],
            visible_samplers=lambda: [SimpleNamespace(name=name) for name in ("Euler a", "Heun")],
        ),
        scripts=SimpleNamespace(Script=object, AlwaysVisible=object(), scripts_data=[]),
        sd_models=SimpleNamespace(select_checkpoint=lambda: None),
        shared=SimpleNamespace(
            cmd_opts=SimpleNamespace(lora_dir=str(lora), **dict.fromkeys(FLAGS)),
            opts=SimpleNamespace(localization="None", data={}),
            state=State(job=""),
        ),
    )
    package = ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, part in vars(host).items():
        module = ModuleType(f"modules.{name}")
        vars(module).update(vars(part))
        setattr(package, name, module)
        setattr(host, name, module)
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
    yield host
    for name in ("webui_common", "webui_drawing", "tag_weights"):
        sys.modules.pop(OURS + name, None)


@pytest.fixture
def ours(modules):
    """Import one of our modules over the stand-in."""
    return lambda name: importlib.import_module(OURS + name)
