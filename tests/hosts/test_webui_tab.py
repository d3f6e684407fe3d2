"""The tab in a real WebUI and a real Forge: trained by clicks, drawn with by the host's own API."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.tests.core.models import make_checkpoint
from lora_loop.tests.hosts import placing

pytestmark = [pytest.mark.host, pytest.mark.slow]

START, LONG = 300, 300_000  # seconds for the host; milliseconds for a training
STEPS = 10
PROMPT = "momo"
FLAGS = {
    "webui": (
        *("--use-cpu", "all", "--no-half", "--skip-torch-cuda-test", "--skip-version-check"),
        *("--no-download-sd-model", "--do-not-download-clip", "--disable-nan-check"),
    ),
    "forge": (
        *("--always-cpu", "--skip-torch-cuda-test", "--skip-version-check"),
        "--no-download-sd-model",
    ),
}
SIZES = {"webui": 64, "forge": 64}


class Running:
    """A host with its pages and its API, in a process of its own."""

    def __init__(self, kind: str, program, folder: Path, repository: Path) -> None:
        self.kind, self.folder = kind, folder
        placing.make_folders(folder, repository)
        checkpoint = folder / "models/first.safetensors"
        if kind == "webui":
            from lora_loop.tests.hosts.thin_checkpoint import write_thin

            write_thin(program.folder, checkpoint, 0)
        else:
            make_checkpoint.write_sd1_checkpoint(checkpoint)
        _write_pictures(folder / "pictures" / "2_momo")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / "host.log"
        command = [
            *(program.python, "webui.py", "--api", "--port", str(port), *FLAGS[kind]),
            *("--data-dir", folder / "data", "--lora-dir", folder / "loras"),
            *("--ckpt", checkpoint, "--ckpt-dir", checkpoint.parent),
        ]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=program.folder,
                env={**os.environ, **offline, "GRADIO_ANALYTICS_ENABLED": "False"},
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(1)
        self.stop()
        pytest.fail(f"the host did not start:\n{self.log.read_text()[-4000:]}")

    def _answers(self) -> bool:
        try:
            self.ask("/lora-loop/v1/status")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, body=None) -> bytes:
        """The answer to a request, a POST where there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def picture(self, prompt: str) -> np.ndarray:
        """The host's own picture, as its page would draw it."""
        side = SIZES[self.kind]
        body = {
            "prompt": prompt,
            "seed": 1,
            "steps": 3,
            "width": side,
            "height": side,
            "cfg_scale": 7,
            "sampler_name": "DPM++ 2M",
            "scheduler": "Karras",
        }
        answer = json.loads(self.ask("/sdapi/v1/txt2img", body))
        return _levels(base64.b64decode(answer["images"][0]))

    def preview(self, weights: str) -> np.ndarray:
        """Our picture of the network in memory."""
        side = SIZES[self.kind]
        drawn = {"prompts": [PROMPT], "steps": 3, "width": side, "height": side, "seed": 1}
        body = {"weights": weights, "preview": drawn}
        return _levels(self.ask("/lora-loop/v1/preview", body))

    def memory(self) -> int:
        """Bytes that the host's process holds."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _levels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    chance = np.random.default_rng(1)
    for number in range(2):
        pixels = chance.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("momo")


@pytest.fixture(params=["webui", "forge"])
def host(request, tmp_path):
    program = request.getfixturevalue(request.param)
    running = Running(request.param, program, tmp_path, Path(__file__).parents[2])
    yield running
    running.stop()


@pytest.fixture
def page(host):
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(60_000)
        opened.goto(host.address)
        yield opened
        browser.close()


def press(page, text):
    """A tab of the host's or of ours, by its words."""
    page.locator("button:visible", has_text=text).first.click()


def fill(page, element, value):
    field = page.locator(f"#{element} textarea, #{element} input").first
    field.fill(str(value))
    field.blur()


def shot(page, request, name):
    folder = request.config.getoption("--screenshots")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_the_pages_handlers_are_nobodys_api(host):
    config = json.loads(host.ask("/config"))
    ours = {
        part["id"]
        for part in config["components"]
        if str(part["props"].get("elem_id") or "").startswith("lora_loop")
    }
    handlers = [d for d in config["dependencies"] if ours & {*d["inputs"], *d["outputs"]}]
    assert len(handlers) > 20
    assert all(not d.get("api_name") for d in handlers)
    assert any("loraLoopUseInPrompt" in str(d.get("js")) for d in handlers)


def test_trained_by_clicks_and_drawn_with_by_the_host(host, page, request):
    before = host.picture(PROMPT)
    press(page, "LoRA Loop")
    page.locator("#lora_loop_dataset_folder").wait_for()
    fill(page, "lora_loop_dataset_folder", host.folder / "pictures")
    page.locator("#lora_loop_pages button", has_text="Train").first.click()
    page.locator("#lora_loop_all button, #lora_loop_all .label-wrap").first.click()
    values = {
        "dataset_resolution": 64,
        "network_rank": 4,
        "training_max_steps": STEPS,
        "training_batch_size": 1,
        "optimizer_unet_lr": 0.01,
        "optimizer_text_encoder_lr": 0.01,
        "output_name": "momo",
    }
    for name, value in values.items():
        fill(page, f"lora_loop_{name}", value)
    page.locator("#lora_loop_plan b", has_text=str(STEPS)).first.wait_for()
    page.wait_for_timeout(2000)
    page.locator("#lora_loop_start").click()
    page.locator('#lora_loop_strip [data-kind="train"][data-state="done"]').wait_for(timeout=LONG)
    shot(page, request, f"{host.kind}-train")
    assert (host.folder / "loras/momo.safetensors").is_file()

    page.locator("#lora_loop_pages button", has_text="Blocks").first.click()
    page.locator("#lora_loop_pages .label-wrap", has_text="How it is drawn").click()
    drawing = {"prompts": PROMPT, "presets": "NONE\nALL", "steps": 3, "width": 64, "height": 64}
    for name, value in drawing.items():
        fill(page, f"lora_loop_draw_{name}", value)
    page.locator("#lora_loop_grid").click()
    page.locator("#lora_loop_blocks_told", has_text="momo-grid").first.wait_for(timeout=LONG)
    shot(page, request, f"{host.kind}-blocks")
    page.wait_for_function("document.querySelector('#lora_loop_tag textarea').value !== ''")
    page.locator("#lora_loop_use").click()
    page.wait_for_function(
        "document.querySelector('#txt2img_prompt textarea').value.includes('<lora:momo:1')"
    )
    page.locator("#txt2img_prompt").first.wait_for(state="visible")
    shot(page, request, f"{host.kind}-txt2img")

    assert np.abs(host.picture(PROMPT) - before).max() == 0
    drawn = host.picture(f"{PROMPT} <lora:momo:1>")
    assert np.abs(drawn - before).max() > 8
    assert np.abs(host.preview("ALL") - drawn).max() <= 1
    assert np.abs(host.preview("NONE") - before).max() <= 1
    some = host.picture(f"{PROMPT} <lora:momo:1:lbw=NOFACE>")
    assert np.abs(host.preview("NOFACE") - some).max() <= 1
    assert np.abs(host.picture(PROMPT) - before).max() == 0
