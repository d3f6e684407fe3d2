"""Our files of every family, loaded and merged by the hosts' own loaders."""

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

# SD1 and SD2: 192 of LoRA and 86 of LoCon in the U-Net; SDXL 722 and 66. Then the text encoders.
MODULES = {"sd1": 278 + 72, "sd2": 278 + 138, "sdxl": 788 + 72 + 192}
LARGEST_DIFFERENCE = 1e-6  # of weights up to about 0.1


def arguments(files):
    return [f"{family}={path}" for family, path in files.items()]


def check(found):
    assert found.keys() == MODULES.keys()
    for family, report in found.items():
        assert report["modules"] == MODULES[family]
        assert report["unmatched"] == []
        assert report["not merged"] == []
        assert report["largest difference"] <= LARGEST_DIFFERENCE


def test_the_webui_loads_and_merges_every_module(webui, network_files, tmp_path):
    found = webui.drive("webui_files.py", tmp_path, *arguments(network_files))
    check(found)
    versions = {family: report["version"] for family, report in found.items()}
    assert versions == {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
    assert all(report["errors"] == {} for report in found.values())
    assert found["sdxl"]["alias"] == "all-of-sdxl"
    # the host's own modules, in its own names, are what we would train these files on
    known = {family: report["adopted"] for family, report in found.items()}
    layers = {"sd1": 278 + 72, "sd2": 278 + 138, "sdxl": 788 + 72 + 192}
    assert known == {
        "sd1": ["sd1", "epsilon", layers["sd1"]],
        "sd2": ["sd2", "v", layers["sd2"]],
        "sdxl": ["sdxl", "epsilon", layers["sdxl"]],
    }


def test_comfyui_loads_and_merges_every_module(comfyui, network_files, tmp_path):
    found = comfyui.drive("comfyui_files.py", tmp_path, *arguments(network_files))
    check(found)
    detected = {family: report["detected"] for family, report in found.items()}
    assert detected == {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL"}
