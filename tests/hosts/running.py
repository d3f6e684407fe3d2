"""A WebUI or a Forge with its pages and its API, running in a process of its own."""

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lora_loop.tests.core.models import make_checkpoint
from lora_loop.tests.hosts import placing
from lora_loop.tests.hosts.conftest import HostProgram

START = 300  # seconds until it must answer
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
SIDE = 64  # pixels of a picture, where nothing else is said


class Running:
    """A host with its pages and its API, in a process of its own.

    extensions: what is installed in it, by name.
    """

    def __init__(
        self, kind: str, program: HostProgram, folder: Path, extensions: Mapping[str, Path]
    ) -> None:
        self.kind, self.folder = kind, folder
        placing.make_folders(folder, extensions)
        checkpoint = folder / "models/first.safetensors"
        if kind == "webui":
            from lora_loop.tests.hosts.thin_checkpoint import write_thin

            write_thin(program.folder, checkpoint, 0)
        else:
            make_checkpoint.write_sd1_checkpoint(checkpoint)
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
        raise TimeoutError(f"the host did not start:\n{self.log.read_text()[-4000:]}")

    def _answers(self) -> bool:
        # a request before it says so finds the application half built, and breaks it
        if "Startup time" not in self.log.read_text():
            return False
        try:
            self.ask("/sdapi/v1/options")
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

    def picture(self, prompt: str, side: int = SIDE, steps: int = 3, seed: int = 1) -> np.ndarray:
        """The host's own picture, as its page would draw it."""
        body = {
            "prompt": prompt,
            "seed": seed,
            "steps": steps,
            "width": side,
            "height": side,
            "cfg_scale": 7,
            "sampler_name": "DPM++ 2M",
            "scheduler": "Karras",
        }
        answer = json.loads(self.ask("/sdapi/v1/txt2img", body))
        return _levels(base64.b64decode(answer["images"][0]))

    def preview(self, prompt: str, weights: str, side: int = SIDE, steps: int = 3) -> np.ndarray:
        """Our picture of the network in memory."""
        drawn = {"prompts": [prompt], "steps": steps, "width": side, "height": side, "seed": 1}
        body = {"weights": weights, "preview": drawn}
        return _levels(self.ask("/lora-loop/v1/preview", body))

    def seconds(self) -> float:
        """The processor's time that the host's process has used so far."""
        used = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def _levels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)
