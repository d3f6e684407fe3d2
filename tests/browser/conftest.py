"""The page in a real browser: a server of our own, and Chromium driven by playwright."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

START = 120  # seconds for the server; a busy machine needs many
CHROMIUM = os.environ.get("LORA_LOOP_BROWSER") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")  # an open page goes on drawing, beside all tests that follow
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium, or set LORA_LOOP_BROWSER")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Server:
    """`lora-loop ui` in a process and a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.networks, self._log = folder / "networks", folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "lora_loop.program", "ui", "--port", str(port)),
            *("--output", str(self.networks), *options),
        ]
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self._answers():
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        self.stop()
        pytest.fail(f"the server did not start:\n{self._log.read_text()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/lora-loop/v1/status", timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("page"), *getattr(request, "param", ()))
    yield started
    started.stop()


@pytest.fixture
def errors():
    """What the browser's console had to complain about; empty at the end of each test."""
    found = []
    yield found
    assert found == []


@pytest.fixture
def page(browser, server, errors):
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(60_000)
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.address)
    opened.wait_for_selector("#lora_loop_plan .lora-loop-line")
    yield opened
    opened.close()
