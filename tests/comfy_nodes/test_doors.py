"""Only one file of the nodes knows ComfyUI; the rest is asked through it."""

import ast
from pathlib import Path

import pytest

from lora_loop.comfy_nodes import door, places, routes
from lora_loop.core.errors import ConfigError, DatasetError

NODES = Path(__file__).parents[2] / "comfy_nodes"
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "server", "aiohttp"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", sorted(NODES.glob("*.py")), ids=lambda path: path.stem)
def test_comfyui_is_imported_in_one_file(path):
    found = HOST & set(imported(path))
    assert bool(found) == (path.name == "host.py")


def test_the_page_is_told_blocks_and_presets(host):
    found = routes.blocks({"family": "sdxl"})
    assert set(found["orders"]) == {12, 20}
    assert "NOFACE" not in found["presets"]
    assert found["presets"]["ALL"]["IN04"] == 1
    assert routes.vector({"text": "IN04=0.5", "family": "sd1"})["blocks"]["IN04"] == 0.5
    with pytest.raises(ConfigError, match="family is"):
        routes.blocks({"family": "flux"})


def test_the_page_looks_at_a_dataset_before_it_is_queued(host, pictures):
    assert routes.folders({})["folders"] == ["momo", "momo/2_momo"]
    found = routes.dataset({"folder": "momo", "resolution": "64"})
    assert "4 pictures" in found["text"]
    sheet = found["sheet"]
    assert (host.folder(sheet["type"]) / sheet["subfolder"] / sheet["filename"]).is_file()
    with pytest.raises(DatasetError, match="lies outside"):
        routes.dataset({"folder": "/etc"})
    with pytest.raises(ConfigError, match="resolution is"):
        routes.dataset({"folder": "momo", "resolution": "-1"})


def test_a_link_that_the_owner_has_put_into_input_counts(host, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    link = host.folder("input") / "link"
    link.symlink_to(outside)
    assert places.dataset_folder(door.host(), "link") == str(link)
    with pytest.raises(DatasetError, match="lies outside"):
        places.dataset_folder(door.host(), "link/../../elsewhere")
