"""Run by the WebUI's Python: trainings on the model that it has loaded.

python webui_adoption.py WEBUI REPOSITORY FOUND FOLDER [SCENARIO ...]
"""

import os
import sys
from pathlib import Path

ON_THE_CPU = "--use-cpu all --no-half --skip-torch-cuda-test --skip-version-check"

SCENARIOS = ("trained", "stopped", "failed", "rested", "merged", "drawn", "drawn_by_host", "fp8")
LAST = ("overwritten", "changed", "in_low_memory")  # each leaves the host otherwise than before


def start(webui, folder, checkpoint):
    """Start the host without its pages, its data in a folder of its own; load the checkpoint."""
    sys.argv = [
        "webui.py",
        *("--data-dir", str(folder / "data")),
        *("--lora-dir", str(folder / "loras")),
        *("--ckpt", str(checkpoint), "--ckpt-dir", str(checkpoint.parent)),
        *os.environ.get("WEBUI_FLAGS", ON_THE_CPU).split(),
        *("--no-download-sd-model", "--do-not-download-clip", "--disable-nan-check"),
    ]
    sys.path.insert(0, str(webui))
    from modules import initialize

    initialize.imports()
    initialize.initialize()
    from modules import script_callbacks, shared

    script_callbacks.before_ui_callback()
    assert shared.sd_model is not None


def make_subject(scenario, other):
    """The host for the scenarios; `other` is the checkpoint to change to."""
    from modules import call_queue, sd_models, shared

    from lora_loop.extension.hosts.webui import WebUI

    class Running(scenario.Subject):
        host = WebUI()

        def tensors(self):
            return dict(shared.sd_model.state_dict(keep_vars=True))

        def change_checkpoint(self):
            with call_queue.queue_lock:
                info = sd_models.checkpoint_aliases[other.name]
                sd_models.reload_model_weights(info=info)

        def interrupt(self):
            shared.state.interrupt()

        def overwrite_checkpoint(self):
            """Load the other one into the same modules, as for two of one configuration."""
            shared.sd_model.used_config = str(other.with_suffix(".yaml"))
            self.change_checkpoint()

    return Running()


def make_scenarios(scenario, subject, folder, checkpoint):
    """The scenarios, with those of this host alone."""
    from modules import sd_models, shared

    class OwnScenarios(scenario.Scenarios):
        def fp8(self):
            """With the host's U-Net and text encoder stored in eight bits."""
            shared.opts.data["fp8_storage"] = "Enable"
            sd_models.reload_model_weights()
            found = self._around(lambda: self._train("fp8"))
            found["dtypes"] = sorted({str(t.dtype) for t in subject.tensors().values()})
            shared.opts.data["fp8_storage"] = "Disable"
            sd_models.reload_model_weights()
            return found

        def overwritten(self):
            """As `changed`, with the other weights in the same tensors."""
            found = self._change("overwritten", subject.overwrite_checkpoint)
            first = sd_models.checkpoint_aliases[checkpoint.name]
            sd_models.reload_model_weights(info=first)
            return found

        def in_low_memory(self):
            """With the hooks that move one part at a time."""
            shared.cmd_opts.medvram = True
            sd_models.load_model()  # its hooks come with a new model only
            found = self._around(lambda: self._train("in_low_memory"))
            return {**found, "moves parts": shared.sd_model.lowvram}

    return OwnScenarios(subject, folder, checkpoint)


def main():
    """See the top."""
    webui, repository, found, folder = (Path(place).resolve() for place in sys.argv[1:5])
    arguments = sys.argv[5:]
    sys.path.insert(0, str(repository / "tests"))
    import conftest  # noqa: F401  makes the repository importable as lora_loop

    sys.path.pop(0)
    from lora_loop.tests.hosts import placing, thin_checkpoint

    placing.make_folders(folder, {"lora-loop": repository})
    models = folder / "models"
    first = thin_checkpoint.write_thin(webui, models / "first.safetensors", seed=0)
    other = thin_checkpoint.write_thin(webui, models / "other.safetensors", seed=1)
    start(webui, folder, first)
    from lora_loop.tests.hosts import scenario

    subject = make_subject(scenario, other)
    scenarios = make_scenarios(scenario, subject, folder, first)
    scenarios.run(arguments or [*SCENARIOS, *LAST], found)


if __name__ == "__main__":
    main()
