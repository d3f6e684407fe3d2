"""The example workflows in a real ComfyUI: loaded by its own page, sized down, and queued."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_loop.tests.core.models import make_checkpoint as shapes
from lora_loop.tests.hosts import comfyui_nodes

pytestmark = [pytest.mark.host, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# the study of a file comes after those that write one
EXAMPLES = sorted(
    (ROOT / "example_workflows").glob("*.json"), key=lambda path: (path.stem == "block_study", path)
)
START, LONG = 120, 600  # seconds
XL = "xl.safetensors"
SMALL = {
    "ckpt_name": "thin.safetensors",
    "folder": "momo",
    "resolution": 64,
    "max_steps": 2,
    "rank": 2,
    "width": 64,
    "height": 64,
    "steps": 2,
    "batch_size": 1,
    "captioner": "none",
    "samples": 1,
}
LOADED = """
    const app = window.app || (await import("/scripts/app.js")).app;
    await app.loadGraphData(graph);
    for (const node of app.graph._nodes)
        for (const widget of node.widgets || [])
            if (widget.name in small) widget.value = small[widget.name];
"""
PROMPT = f"async ([graph, small]) => {{ {LOADED} return (await app.graphToPrompt()).output; }}"
QUEUE = f"async ([graph, small]) => {{ {LOADED} await app.queuePrompt(0, 1); }}"


class Server:
    """ComfyUI with our nodes, its models, inputs and outputs in a folder of its own."""

    def __init__(self, program, folder: Path) -> None:
        self.folder = folder
        comfyui_nodes.make_inputs(ROOT, folder)
        # ComfyUI knows SDXL by its depths and takes the text encoders' shapes for granted
        names = shapes.sdxl_names(
            replace(shapes.FULL_SDXL, unet=(320, 320, 320)), shapes.FULL_SDXL_TEXT
        )
        target = folder / "models/checkpoints" / XL
        shapes.write_checkpoint(target, names, seed=4, dtype=torch.float16)
        (folder / "custom_nodes").mkdir(exist_ok=True)
        (folder / "custom_nodes/lora-loop").symlink_to(ROOT, target_is_directory=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", folder / "server.log"
        command = [program.python, "main.py", "--cpu", "--port", port, "--base-directory", folder]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=program.folder,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                pytest.fail(f"ComfyUI did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(1)

    def _answers(self) -> bool:
        try:
            self.ask("/queue")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def run(self, graph) -> dict:
        """Queue a graph and wait for its end; what the history says of it."""
        queued = self.ask("/prompt", {"prompt": graph})
        assert not queued["node_errors"], queued["node_errors"]
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            found = self.ask(f"/history/{queued['prompt_id']}")
            if found:
                return found[queued["prompt_id"]]
            time.sleep(0.5)
        pytest.fail(f"it never ended:\n{self.log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    started = Server(comfyui, tmp_path_factory.mktemp("comfyui"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def page(server):
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(60_000)
        opened.goto(server.address)
        opened.wait_for_selector("canvas")
        opened.wait_for_timeout(3000)  # the page tells nobody when its nodes are there
        opened.keyboard.press("Escape")  # the templates, which a new user is shown
        yield opened
        browser.close()


def test_every_node_is_offered(server):
    offered = [name for name in server.ask("/object_info") if name.startswith("LoraLoop")]
    assert len(offered) >= 22


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_to_its_end(server, page, path, request):
    graph = json.loads(path.read_text(encoding="utf-8"))
    written = sorted(found.name for found in (server.folder / "models/loras").glob("*.safetensors"))
    given = {"file": written[0]} if written else {}
    if path.stem.startswith("sdxl"):
        given["ckpt_name"] = XL
    prompt = page.evaluate(PROMPT, [graph, {**SMALL, **given}])
    ended = server.run(prompt)
    assert ended["status"]["status_str"] == "success", ended["status"]["messages"]
    assert ended["outputs"]
    shot(page, request, path.stem)


def shot(page, request, name):
    folder = request.config.getoption("--screenshots")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/comfyui-{name}.png")


def test_the_chart_moves_and_a_slider_redraws(server, page, request):
    graph = json.loads((ROOT / "example_workflows/sd15_character.json").read_text("utf-8"))
    done = len(server.ask("/history"))
    page.evaluate(QUEUE, [graph, {**SMALL, "max_steps": 40, "name": "by_hand"}])
    chart = page.locator("canvas[data-lora-loop=loss-chart]").last
    points = "Number(document.querySelector('canvas[data-lora-loop=loss-chart]')?.dataset.points)"
    page.wait_for_function(f"{points} > 2 && {points} < 40", timeout=LONG * 1000)
    page.wait_for_function(f"{points} >= 40", timeout=LONG * 1000)
    while len(server.ask("/history")) == done:
        time.sleep(0.5)
    shot(page, request, "trained")
    first = list(server.ask("/history").values())[-1]
    assert first["status"]["status_str"] == "success"
    assert (server.folder / "models/loras/by_hand.safetensors").is_file()

    slider = page.locator('input[data-block="M00"]').last
    slider.evaluate(
        "(one) => { one.value = 0; one.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    page.get_by_role("button", name="Redraw").last.evaluate("(button) => button.click()")
    while len(server.ask("/history")) == done + 1:
        time.sleep(0.5)
    second = list(server.ask("/history").values())[-1]
    assert second["status"]["status_str"] == "success"
    kept = next(d for name, d in second["status"]["messages"] if name == "execution_cached")
    train = next(str(n["id"]) for n in graph["nodes"] if n["type"] == "LoraLoopTrainLoRA")
    assert train in kept["nodes"]
    assert chart.evaluate("(one) => one.dataset.points") == "40"
    shot(page, request, "redrawn")
