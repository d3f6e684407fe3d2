"""A checkpoint of Stable Diffusion 1.5's true size, with random weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .make_checkpoint import write_sd1_checkpoint

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"
UNET, VAE, TEXT = 859_520_964, 83_653_863, 123_060_480  # parameters of SD1.5

# a process of its own, so that its peak of memory is that of the loading
LOAD = """
import importlib.util, json, resource, sys, time
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import torch
from lora_loop.core.models.base_model import load_base_model
load_base_model(sys.argv[3])  # a thin one: imports and their memory
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.perf_counter()
base = load_base_model(sys.argv[2])
seconds = time.perf_counter() - start
networks = (base.unet, base.vae, base.text_encoders["text_encoder"])
counts = [sum(p.numel() for p in network.parameters()) for network in networks]
held = sum(p.numel() * p.element_size() for n in networks for p in n.parameters())
print(json.dumps({"counts": counts, "held": held, "more": peak() - before, "seconds": seconds}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked of POSIX")
def test_a_full_size_checkpoint_loads_and_is_never_there_twice(tmp_path, capsys):
    full = write_sd1_checkpoint(tmp_path / "full.safetensors", width=320, dtype=torch.float16)
    thin = write_sd1_checkpoint(tmp_path / "thin.safetensors", width=32)
    command = [sys.executable, "-c", LOAD, str(CONFTEST), str(full), str(thin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == [UNET, VAE, TEXT]
    assert found["held"] == 4 * (UNET + VAE + TEXT)
    assert found["more"] <= 1.1 * found["held"], found
    with capsys.disabled():
        sys.stdout.write(f"\nfull size: {found}\n")
