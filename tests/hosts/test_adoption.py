"""A real host is afterwards as it was, however a training on its loaded model ends."""

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

UNCHANGED = {"weights differ": [], "facts differ": [], "picture differs": 0}
ENDS = {"trained": "", "stopped": "", "failed": "MemoryError: out of memory", "rested": ""}
MEMORY = 0.02  # of the host's own
ON_GPU = 1 << 20  # bytes
SAVED = ["-step00000001.safetensors", ".resume-state"]


def check_left_as_it_was(found):
    """Every weight to the bit, and the same picture; also with a LoRA in the host's weights."""
    for name, error in {**ENDS, "merged": ""}.items():
        report = found[name]
        assert {key: report[key] for key in UNCHANGED} == UNCHANGED, name
        assert report["error"] == error
    # the first one imports what trains; all later ones give back what they took
    assert found["stopped"]["memory grows"] <= MEMORY
    assert found["failed"]["memory grows"] <= MEMORY
    for name in ("stopped", "failed", "rested"):
        assert found[name]["GPU memory grows"] <= ON_GPU, name


def check_rested(report):
    """A picture drawn in between is the host's own, and the training goes on to the bit."""
    assert report["picture while resting"] == 0
    assert report["network differs"] == []


def check_merged(report):
    """The LoRA was in, and changed pictures; the training saw the plain weights."""
    assert report["merged layers"] > 100
    assert report["picture changed by the LoRA"] > 8
    assert report["differs within"] == []
    assert report["network differs"] == []


def check_drawn(report):
    """Our previews are the host's pictures with the saved file and its tag, but for rounding."""
    assert report["plain differs"] <= 1
    assert report["with LoRA differs"] <= 1
    assert report["with blocks differs"] <= 1
    assert report["LoRA changes"] > 8
    assert report["blocks change"] > 8
    assert report["without blocks again differs"] == 0
    assert max(report["seeds differ"]) <= 1
    assert report["seeds change"] > 8


def check_drawn_by_host(report):
    """Previews by the host's sampler are its pictures, and nothing of them stays in the host."""
    assert {key: report[key] for key in UNCHANGED} == UNCHANGED
    assert report["error"] == ""
    for sampler in ("Euler a", "Heun"):
        *differences, lora_changes, host_changed = report[f"{sampler} differs"]
        assert max(differences) <= 1, report
        assert lora_changes > 8
        assert host_changed == 0
    assert "did you mean 'Euler a'?" in report["refused"][0]
    assert "did you mean 'Karras'?" in report["refused"][1]
    assert report["sampled"] == ""
    assert report["samples"] > 0
    assert report["last sample differs"] <= 1
    assert report["network differs"] == []


def check_changed(report, name):
    """Another checkpoint ends the training; what was trained is saved and can be gone on with."""
    assert report["error"].startswith("HostChangedError: another checkpoint was chosen in ")
    assert report["files"] == [f"{name}{end}" for end in SAVED]


def test_the_webui_is_left_as_it_was(webui, tmp_path):
    found = webui.drive("webui_adoption.py", tmp_path, str(tmp_path))
    check_left_as_it_was(found)
    check_rested(found["rested"])
    check_merged(found["merged"])
    check_drawn(found["drawn"])
    check_drawn_by_host(found["drawn_by_host"])
    check_changed(found["changed"], "changed")
    check_changed(found["overwritten"], "overwritten")
    for name in ("fp8", "in_low_memory"):
        assert {key: found[name][key] for key in UNCHANGED} == UNCHANGED
        assert found[name]["error"] == ""
    assert "torch.float8_e4m3fn" in found["fp8"]["dtypes"]
    assert found["in_low_memory"]["moves parts"] is True


def test_forge_is_left_as_it_was(forge, tmp_path):
    found = forge.drive("forge_adoption.py", tmp_path, str(tmp_path))
    assert found["placeholder"] == {"loaded": True, "current": True}
    check_left_as_it_was(found)
    check_rested(found["rested"])
    check_merged(found["merged"])
    check_drawn(found["drawn"])
    check_drawn_by_host(found["drawn_by_host"])
    check_changed(found["changed"], "changed")
