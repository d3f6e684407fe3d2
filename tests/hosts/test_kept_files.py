"""Baked files in the hosts, beside what the peers' block weights draw there with the source."""

import shutil

import numpy as np
import pytest

from lora_loop.core.keep.operations import Bake, bake_file
from lora_loop.tests.hosts.network_files import write_random
from lora_loop.tests.hosts.running import Running

pytestmark = [pytest.mark.host, pytest.mark.slow]

ALGORITHMS = ("lora", "loha", "lokr")
VECTORS = {
    "LyNOFACE": "1,1,1,1,1,1,0,0,0,0,0,0,0,1,1,1,1",
    "halves": "1,0.5,0,1,0.25,1,0,2,-0.5,1,0,0.75,0,1,0,1,0.5",
    "whole": "1,0.5,1,0,1,0.5,0,1,1,0,1,0,1,0.5,0.5,1,0,1,1,0,0,1,0.25,1,0,1",
}
PROMPT = "momo"


@pytest.fixture
def webui_with_lbw(webui, lora_block_weight, tmp_path):
    # it writes into its own folder
    own = shutil.copytree(lora_block_weight, tmp_path / "lora-block-weight")
    running = Running("webui", webui, tmp_path, {"lora-block-weight": own})
    yield running
    running.stop()


def test_the_webui_draws_baked_files_as_lora_block_weight_draws_their_sources(webui_with_lbw):
    host = webui_with_lbw
    loras, before = host.folder / "loras", host.picture(PROMPT)
    drawn = {}
    for number, algorithm in enumerate(ALGORITHMS):
        source = loras / f"{algorithm}.safetensors"
        write_random(host.folder / "models/first.safetensors", source, algorithm, number)
        for name, vector in VECTORS.items():
            weight = "0.7" if algorithm == "lora" else "1"
            bake = Bake(weights=vector, unet=float(weight), text_encoder=float(weight), rank=64)
            bake_file(source, bake, loras / f"{algorithm}-{name}.safetensors")
            live = host.picture(f"{PROMPT} <lora:{algorithm}:{weight}:lbw={vector}>")
            baked = host.picture(f"{PROMPT} <lora:{algorithm}-{name}:1>")
            assert np.abs(live - baked).max() <= 1, (algorithm, name)
            drawn[algorithm, name] = live
        whole = host.picture(f"{PROMPT} <lora:{algorithm}:1>")
        for name in VECTORS:
            assert np.abs(drawn[algorithm, name] - whole).max() > 8
            assert np.abs(drawn[algorithm, name] - before).max() > 8
    assert np.abs(host.picture(PROMPT) - before).max() == 0


def test_comfyui_draws_baked_files_as_the_inspire_pack_draws_their_sources(
    comfyui, inspire_pack, tmp_path
):
    found = comfyui.drive("comfyui_kept.py", tmp_path, str(tmp_path / "base"), str(inspire_pack))
    assert found["ends"] == ["execution_success"] * len(found["ends"])
    assert len(found["differences"]) == 6
    for name, difference in found["differences"].items():
        assert difference["baked"] <= 1, name
        assert difference["whole"] > 8, name
        assert difference["without"] > 8, name
