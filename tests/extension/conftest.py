"""A desk on the embedded model, in a folder of its own."""

import pytest
from PIL import Image

from lora_loop.core.config import (
    DatasetConfig,
    NetworkConfig,
    OutputConfig,
    PreviewConfig,
    Recipe,
    TrainingConfig,
)
from lora_loop.extension.desk import Desk
from lora_loop.extension.hosts.protocol import Folders
from lora_loop.extension.hosts.standalone import Choices, StandaloneHost

WAIT = 200  # seconds for a job; only a broken one, or a very busy machine, needs them


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three small pictures with captions."""
    folder = tmp_path_factory.mktemp("pictures") / "2_momo"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue"), 1):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"momo, {colour}")
    return folder.parent


@pytest.fixture
def host(tmp_path):
    return StandaloneHost(
        Choices(folders=Folders(networks=tmp_path / "networks", data=tmp_path / "data"))
    )


@pytest.fixture
def desk(host):
    return Desk(host)


@pytest.fixture
def recipe(pictures, tmp_path):
    return Recipe(
        dataset=DatasetConfig(folder=str(pictures)),
        network=NetworkConfig(rank=2, alpha=2.0),
        training=TrainingConfig(max_steps=2),
        preview=PreviewConfig(steps=2),
        output=OutputConfig(folder=str(tmp_path / "networks"), name="momo", trigger="momo"),
    )


@pytest.fixture
def over():
    """Wait for a job's end."""

    def wait(job):
        assert job.over.wait(WAIT)
        return job

    return wait
