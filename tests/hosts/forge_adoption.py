"""Run by Forge's Python: trainings on the model that it has loaded.

python forge_adoption.py FORGE REPOSITORY FOUND FOLDER [SCENARIO ...]

Forge takes the text encoder's and the VAE's shapes from configurations of its own, so that the
checkpoint is of full size: two gigabytes in FOLDER.
"""

import os
import sys
import threading
from pathlib import Path

ON_THE_CPU = "--always-cpu --skip-torch-cuda-test --skip-version-check"
SCENARIOS = (
    "trained",
    "stopped",
    "failed",
    "rested",
    "merged",
    "drawn",
    "drawn_by_host",
    "changed",
)


def start(forge, folder, checkpoint):
    """Start the host without its pages, its data in a folder of its own."""
    sys.argv = [
        "webui.py",
        *("--data-dir", str(folder / "data")),
        *("--lora-dir", str(folder / "loras")),
        *("--ckpt", str(checkpoint), "--ckpt-dir", str(checkpoint.parent)),
        *os.environ.get("FORGE_FLAGS", ON_THE_CPU).split(),
        "--no-download-sd-model",
    ]
    sys.path.insert(0, str(forge))
    import webui  # noqa: F401  starts all but the pages
    from modules import script_callbacks
    from modules_forge import main_thread

    script_callbacks.before_ui_callback()
    threading.Thread(target=main_thread.loop, daemon=True).start()


def make_subject(scenario, other):
    """The host for the scenarios; `other` is the checkpoint to change to."""
    from modules import shared
    from modules_forge import main_entry

    from lora_loop.extension.hosts.forge import Forge

    class Running(scenario.Subject):
        host = Forge()

        def tensors(self):
            objects = shared.sd_model.forge_objects_original
            parts = {
                "unet": objects.unet.model.diffusion_model,
                "text": objects.clip.cond_stage_model,
                "vae": objects.vae.first_stage_model,
            }
            return {
                f"{part}.{name}": tensor
                for part, module in parts.items()
                for name, tensor in module.state_dict(keep_vars=True).items()
            }

        def change_checkpoint(self):
            main_entry.checkpoint_change(other.name, save=False)

        def interrupt(self):
            shared.state.interrupt()

    return Running()


def placeholder_first(subject):
    """Before its first picture the host has only a placeholder for a model."""
    from modules import shared

    assert not hasattr(shared.sd_model, "forge_objects")
    loan = subject.host.loan()
    return {"loaded": hasattr(shared.sd_model, "forge_objects"), "current": loan.is_current()}


def main():
    """See the top."""
    forge, repository, found, folder = (Path(place).resolve() for place in sys.argv[1:5])
    arguments = sys.argv[5:]
    sys.path.insert(0, str(repository / "tests"))
    import conftest  # noqa: F401  makes the repository importable as lora_loop

    sys.path.pop(0)
    from lora_loop.tests.core.models import make_checkpoint
    from lora_loop.tests.hosts import placing

    placing.make_folders(folder, {"lora-loop": repository})
    models = folder / "models"
    first, other = models / "first.safetensors", models / "other.safetensors"
    if not first.exists():
        make_checkpoint.write_sd1_checkpoint(first)
    if not other.exists():
        os.link(first, other)
    start(forge, folder, first)
    from lora_loop.tests.hosts import scenario

    subject = make_subject(scenario, other)
    placeholder = placeholder_first(subject)
    scenarios = scenario.Scenarios(subject, folder, first)
    scenarios.run(arguments or SCENARIOS, found, {"placeholder": placeholder})


if __name__ == "__main__":
    main()
