"""The tab in a real WebUI and a real Forge: trained by clicks, drawn with by the host's own API."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.tests.hosts.conftest import REPOSITORY
from lora_loop.tests.hosts.running import Running

pytestmark = [pytest.mark.host, pytest.mark.slow]

LONG = 300_000  # milliseconds for a training
STEPS = 10
PROMPT = "momo"


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
    _write_pictures(tmp_path / "pictures" / "2_momo")
    running = Running(request.param, program, tmp_path, {"lora-loop": REPOSITORY})
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
    assert [d["api_name"] for d in handlers if d.get("api_name")] == []
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
    assert np.abs(host.preview(PROMPT, "ALL") - drawn).max() <= 1
    assert np.abs(host.preview(PROMPT, "NONE") - before).max() <= 1
    some = host.picture(f"{PROMPT} <lora:momo:1:lbw=NOFACE>")
    assert np.abs(host.preview(PROMPT, "NOFACE") - some).max() <= 1
    assert np.abs(host.picture(PROMPT) - before).max() == 0
