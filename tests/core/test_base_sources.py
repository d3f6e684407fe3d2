"""Trainings on a folder of diffusers' and with a separate VAE: what the file says of them."""

import hashlib
from dataclasses import replace

import pytest
import torch

from lora_loop.core import session
from lora_loop.core.errors import FileError
from lora_loop.core.events import StepDone
from lora_loop.core.files.network_file import read_network
from lora_loop.core.models.base_model import load_base_model

CPU = torch.device("cpu")


def on_base(recipe, **base):
    return replace(
        recipe,
        base=replace(recipe.base, **base),
        training=replace(recipe.training, max_steps=2),
    )


def train(recipe, **options):
    base = session.open_base(recipe.base, recipe.memory, CPU)
    return session.run(session.make_plan(recipe, **options), base, start="new")


def metadata_of(trained):
    return read_network(trained.path).metadata


@pytest.fixture(scope="module")
def vae(tmp_path_factory, checkpoints):
    """A whole checkpoint whose VAE alone is taken."""
    path = tmp_path_factory.mktemp("vae") / "other.safetensors"
    return checkpoints.write_sd1_checkpoint(path, shape=checkpoints.THIN, seed=9)


def test_a_separate_vae_is_used_and_told(recipe, vae):
    plain = metadata_of(train(on_base(recipe)))
    assert plain["ss_vae_name"] == plain["ss_vae_hash"] == plain["ss_new_vae_hash"] == "None"
    named = replace(recipe, output=replace(recipe.output, name="other"))
    found = metadata_of(train(on_base(named, vae=str(vae))))
    content = vae.read_bytes()
    assert found["ss_vae_name"] == vae.name
    assert found["ss_new_vae_hash"] == hashlib.sha256(content).hexdigest()
    assert found["ss_vae_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert found["ss_new_sd_model_hash"] == plain["ss_new_sd_model_hash"]
    assert found["sshs_model_hash"] != plain["sshs_model_hash"]  # other latents, other network


def test_a_stopped_training_goes_on_with_the_same_vae_only(recipe, vae):
    steps = []

    def note(event):
        if isinstance(event, StepDone):
            steps.append(event)

    base = session.open_base(recipe.base, recipe.memory, CPU)
    session.run(session.make_plan(recipe), base, on_event=note, stop=lambda: bool(steps))
    other = replace(recipe, base=replace(recipe.base, vae=str(vae)))
    base = session.open_base(other.base, other.memory, CPU)
    with pytest.raises(FileError, match="base model"):
        session.run(session.make_plan(other, "resume"), base, start="resume")


def test_a_folder_is_trained_on(recipe, thin_checkpoint, tmp_path):
    single, folder = load_base_model(thin_checkpoint), tmp_path / "my pipeline"
    for part, network in {**single.parts, "vae": single.vae}.items():
        network.save_pretrained(folder / part)
    (folder / "unet" / "config.json").write_text('{"sample_size": 8}')
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    trained = train(on_base(recipe, checkpoint=str(folder)))
    found = metadata_of(trained)
    assert found["ss_sd_model_name"] == "my pipeline"
    assert found["ss_sd_model_hash"] == found["ss_new_sd_model_hash"] == "None"
    assert found["ss_base_model_version"] == "sd_v1"
    named = replace(recipe, output=replace(recipe.output, name="single"))
    assert found["sshs_model_hash"] == metadata_of(train(on_base(named)))["sshs_model_hash"]
