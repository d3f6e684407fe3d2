"""Run by ComfyUI's Python: its own LoRA loader loads our files and merges them.

python comfyui_files.py COMFYUI REPOSITORY FOUND FAMILY=FILE ...

The models are detected and built by the host from names and shapes of full size, on the meta
device; each layer gets random weights just for the merge.
"""

import json
import logging
import sys
from pathlib import Path

PREFIX = "model.diffusion_model."


class Warnings(logging.Handler):
    """Keeps what the host says of keys that it did not load."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def shapes_of(family, checkpoints):
    """Names and shapes of a checkpoint of full size."""
    if family == "sd1":
        return list(checkpoints.sd1_names(checkpoints.FULL))
    if family == "sd2":
        return checkpoints.sd2_names(checkpoints.FULL_SD2, checkpoints.FULL_SD2_TEXT)
    return checkpoints.sdxl_names(checkpoints.FULL_SDXL, checkpoints.FULL_SDXL_TEXT)


def build(family, checkpoints):
    """The host's patchers for U-Net and text encoders, as its checkpoint loader makes them."""
    import comfy.model_detection
    import comfy.model_patcher
    import comfy.sd
    import torch

    state = {}
    for name, size in shapes_of(family, checkpoints):
        # a few vectors are looked into, to tell epsilon from v prediction
        device = "cpu" if len(size) == 1 else "meta"
        state[name] = torch.zeros(size, device=device)
    config = comfy.model_detection.model_config_from_unet(state, PREFIX)
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    unet = config.get_model(state, PREFIX, device="meta")
    target = config.clip_target(state_dict=state)
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = target.clip(
        device="meta", dtype=torch.float32, model_options={}, **target.params
    )
    clip.tokenizer, clip.layer_idx = None, None
    clip.tokenizer_options, clip.use_clip_schedule, clip.apply_hooks_to_conds = {}, False, None
    clip.patcher = comfy.model_patcher.ModelPatcher(clip.cond_stage_model, cpu, cpu)
    return comfy.model_patcher.ModelPatcher(unet, cpu, cpu), clip, type(config).__name__


def merge(patcher, ours, key_of, weights):
    """Have the host compute every patched weight; the keys used, and the largest difference."""
    import comfy.lora
    import torch

    shapes = {name: tensor.shape for name, tensor in patcher.model.state_dict().items()}
    used, worst = set(), 0.0
    with torch.no_grad():
        for name, patches in patcher.patches.items():
            key = key_of[id(patches[0][1].weights[0])]
            before = weights.of(shapes[name])
            merged = comfy.lora.calculate_weight(patches, before.clone(), name)
            expected = before + ours(key).reshape(before.shape)
            worst = max(worst, float((merged - expected).abs().max()))
            used.add(key)
    return used, worst


def check(family, path, files, checkpoints):
    """Load one file on its family's model and merge every module."""
    import comfy.sd
    import comfy.utils

    model, clip, detected = build(family, checkpoints)
    heard = Warnings()
    logging.getLogger().addHandler(heard)
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    key_of = {id(tensor): name.partition(".")[0] for name, tensor in lora.items()}
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    logging.getLogger().removeHandler(heard)
    modules, weights = files.deltas_of(path), files.Weights()
    used, worst = set(), 0.0
    for patcher in (patched, patched_clip.patcher):
        own, difference = merge(patcher, lambda key: files.delta(modules[key]), key_of, weights)
        used |= own
        worst = max(worst, difference)
    return {
        "detected": detected,
        "modules": len(patched.patches) + len(patched_clip.patcher.patches),
        "unmatched": heard.said,
        "not merged": sorted(set(modules) - used),
        "largest difference": worst,
    }


def main():
    """See the top."""
    comfyui, repository, found = (Path(place).resolve() for place in sys.argv[1:4])
    files = dict(argument.split("=", 1) for argument in sys.argv[4:])
    sys.argv = ["main.py", "--cpu"]
    sys.path.insert(0, str(comfyui))
    import comfy.options

    comfy.options.enable_args_parsing()
    sys.path.insert(0, str(repository / "tests"))
    import conftest  # noqa: F401  makes the repository importable as lora_loop

    sys.path.pop(0)
    from lora_loop.tests.core.models import make_checkpoint
    from lora_loop.tests.hosts import network_files

    report = {
        family: check(family, Path(path), network_files, make_checkpoint)
        for family, path in files.items()
    }
    found.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
