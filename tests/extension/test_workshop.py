"""Files made of others by the Files page."""

from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

from lora_loop.core.errors import ConfigError, FileError
from lora_loop.core.models.base_model import EMBEDDED
from lora_loop.core.session import workbench
from lora_loop.extension.workshop import Workshop


@pytest.fixture
def networks(desk, recipe, over):
    """Two files: momo and other."""
    for name in ("momo", "other"):
        output = replace(recipe.output, name=name)
        assert over(desk.train(replace(recipe, output=output))).error == ""
    return desk.host.folders().networks


@pytest.fixture
def workshop(desk):
    return Workshop(desk)


def test_tags_are_merged_and_the_result_resized(workshop, networks, over):
    job = over(workshop.merge("<lora:momo:0.5:lbw=NOFACE> <lora:other:1>", 0, "both"))
    assert (job.state, job.error) == ("done", "")
    facts = workbench.describe_network(networks / "both.safetensors")
    assert "NOFACE" in facts.metadata["lora_loop.merged"]
    assert facts.metadata["ss_network_dim"] in ("4", "Dynamic")
    job = over(workshop.resize("both.safetensors", 1, 100, "small"))
    assert job.error == ""
    assert (networks / "small.safetensors").stat().st_size < facts.bytes
    job = over(workshop.resize("both.safetensors", 4, 50, "half"))
    assert job.error == ""


def test_a_checkpoint_takes_networks_in_and_gives_them_back(workshop, networks, over):
    checkpoint = networks.parent / "base.safetensors"
    checkpoint.write_bytes(EMBEDDED.read_bytes())
    job = over(workshop.fold("<lora:momo:1>", str(checkpoint), "tuned"))
    assert (job.state, job.error) == ("done", "")
    tuned = checkpoint.with_name("tuned.safetensors")
    assert "sha256" in job.result
    job = over(workshop.extract(str(tuned), str(checkpoint), 2, "again"))
    assert (job.state, job.error) == ("done", "")
    assert (networks / "again.safetensors").is_file()


@pytest.mark.parametrize(
    ("tags", "name", "words"),
    [
        ("", "x", "as a prompt does"),
        ("a cat <lora:momo:1>", "x", "and nothing else"),
        ("<lora:nobody:1>", "x", "no network 'nobody'"),
        ("<lora:momo:1:step=1-3>", "x", "can't hold steps"),
        ("<lora:momo:1>", "../x", "new file's name"),
        ("<lora:momo:1>", "other", "exists already"),
    ],
)
def test_slips_are_told_before_anything_waits(workshop, networks, tags, name, words):
    with pytest.raises(ConfigError, match=words):
        workshop.merge(tags, 0, name)


def test_files_outside_are_refused(workshop, networks):
    with pytest.raises(FileError, match="no network file"):
        workshop.resize("../../x.safetensors", 4, 99, "x")
