"""A model of Stable Diffusion 1.5's true size, lent by a host, is never there twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UNET = 859_520_964  # parameters

# a process of its own, so that its memory is that of the adoption
ADOPT = """
import importlib.util, json, sys
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
root = sys.argv[1]
load("conftest", f"{root}/tests/conftest.py")
import torch
from lora_loop.core import session
from lora_loop.core.config import BaseConfig, MemoryConfig
bench = load("adopt", f"{root}/bench/adopt.py")
shapes = load("make_checkpoint", f"{root}/tests/core/models/make_checkpoint.py")
hosts = load("make_host", f"{root}/tests/core/models/make_host.py")
bench.adopt_once(session, bench.make_host(bench.names_of("thin", shapes), torch.float16))
host = bench.make_host(bench.names_of("sd15", shapes), torch.float16)
unet = host.model.diffusion_model
size = sum(p.numel() * p.element_size() for p in unet.parameters())
theirs = {p.untyped_storage().data_ptr() for p in unet.parameters()}
live = session.LiveModel.of_checkpoint(host, session.LiveFacts(name="host"))
sums = lambda: [int(p.view(torch.int16).sum(dtype=torch.int64)) for p in host.parameters()]
before_sums, before = sums(), bench.resident()
# bf16, which the weights are converted to at each use
with session.adopt(live, BaseConfig(), MemoryConfig(precision="bf16"), torch.device("cpu")) as base:
    grown = bench.resident() - before
    own = list(base.unet.parameters())
    shared = [p.untyped_storage().data_ptr() in theirs for p in own if p.dim() >= 2]
    latents = torch.randn(1, 4, 8, 8).requires_grad_(True)
    output = base.predict(latents, torch.tensor([500]), base.encode_text(["a cat"]))
    output.float().square().mean().backward()
    found = {
        "count": sum(p.numel() for p in own),
        "size": size,
        "grown": grown,
        "shared": all(shared),
        "gradient": bool(torch.isfinite(latents.grad).all()) and float(latents.grad.abs().max()),
        "peak": bench.resident() - before,
    }
found["same"] = sums() == before_sums
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is asked of Linux")
def test_a_full_size_model_is_adopted_without_a_copy(capsys):
    command = [sys.executable, "-c", ADOPT, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["count"] == UNET
    assert found["shared"]
    assert found["grown"] < 0.01 * found["size"], found
    assert found["gradient"] > 0
    assert found["same"]
    with capsys.disabled():
        sys.stdout.write(f"\nadopted: {found}\n")
