"""Run by the WebUI's Python: its own Lora extension loads our files and merges them.

python webui_files.py WEBUI REPOSITORY FOUND FAMILY=FILE ...

The models are built by the host from its configurations, on the meta device and of full size; each
layer gets random weights just for the merge.
"""

import json
import logging
import sys
from pathlib import Path

FLAGS = ("--skip-torch-cuda-test", "--use-cpu", "all", "--no-half", "--skip-version-check")
_SD2 = "repositories/stable-diffusion-stability-ai/configs/stable-diffusion"
CONFIGS = {
    "sd1": "configs/v1-inference.yaml",
    "sd2": f"{_SD2}/v2-inference-v.yaml",
    "sdxl": "repositories/generative-models/configs/inference/sd_xl_base.yaml",
}


class Unmatched(logging.Handler):
    """Keeps what the extension says of keys that it could not match."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.said = []

    def emit(self, record):
        text = record.getMessage()
        if "match" in text:
            self.said.append(text)


def start(webui):
    """Import the host as its own launcher does, without a page; return its Lora extension."""
    sys.argv = ["webui.py", *FLAGS]
    sys.path.insert(0, str(webui))
    from modules import initialize

    initialize.imports()
    sys.path.insert(0, str(webui / "extensions-builtin" / "Lora"))
    import networks  # isort: skip  it and lora_patches import each other
    import lora_patches

    networks.originals = lora_patches.LoraPatches()
    return networks


def build(webui, family):
    """The host's model, hijacked as it is in use, all of its layers on the meta device."""
    from ldm.util import instantiate_from_config
    from modules import sd_disable_initialization, sd_hijack, sd_models, sd_models_xl
    from omegaconf import OmegaConf

    config = OmegaConf.load(webui / CONFIGS[family])
    sd_models.repair_config(config)
    with (
        sd_disable_initialization.DisableInitialization(disable_clip=True),
        sd_disable_initialization.InitializeOnMeta(),
    ):
        model = instantiate_from_config(config.model)
    model.is_sdxl = hasattr(model, "conditioner")
    model.is_sd2 = not model.is_sdxl and hasattr(model.cond_stage_model, "model")
    model.is_sd1 = not model.is_sdxl and not model.is_sd2
    model.is_ssd = False
    if model.is_sdxl:
        sd_models_xl.extend_sdxl(model)
    sd_hijack.model_hijack.hijack(model)
    sd_models.model_data.sd_model = model
    sd_models.model_data.was_loaded_at_least_once = True
    return model.requires_grad_(False)


def adopted(model, family):
    """What the core makes of this model: family, prediction and the layers that it can train.

    One number stands for all of a weight, in tensors of the true shapes and without their memory.
    """
    import dataclasses
    from types import SimpleNamespace

    import torch

    from lora_loop.core import session
    from lora_loop.core.adapters.targets import find_targets
    from lora_loop.core.config import BaseConfig, MemoryConfig
    from lora_loop.extension.hosts.webui import WebUILoan

    model.sd_model_hash, model.lowvram = "", False
    model.sd_checkpoint_info = SimpleNamespace(
        name_for_extra=family, metadata={}, filename=f"{family}.safetensors", sha256=None
    )
    live = WebUILoan(model).live()
    parts = {
        part: {
            name: torch.full((), 0.01).expand(tensor.shape)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in module.state_dict().items()
        }
        for part, module in live.parts.items()
        if isinstance(module, torch.nn.Module)
    }
    live = dataclasses.replace(live, parts=parts)
    base = BaseConfig(checkpoint=f"{family}.safetensors")
    with session.adopt(live, base, MemoryConfig(precision="fp32"), torch.device("cpu")) as lent:
        parts = {"unet": lent.unet, **lent.text_encoders}
        return [lent.family.key, lent.prediction, len(find_targets(parts))]


def parts_of(module):
    """The suffixes of a layer's names in the extension, with the places of their weights."""
    import torch

    if isinstance(module, torch.nn.MultiheadAttention):
        width = module.embed_dim
        rows = {f"_{name}_proj": (i * width, (i + 1) * width) for i, name in enumerate("qkv")}
        return {**rows, "_out_proj": None}
    return {"": None}


def merge(networks, module, weights, ours):
    """Let the host merge into one layer; the largest difference to our merge.

    ours: suffix -> our update.
    """
    import torch

    def fill(owner, name):
        value = getattr(owner, name)
        if value is not None:
            setattr(owner, name, torch.nn.Parameter(weights.of(value.shape), requires_grad=False))

    with torch.no_grad():
        if isinstance(module, torch.nn.MultiheadAttention):
            fill(module, "in_proj_weight")
            fill(module.out_proj, "weight")
            fill(module.out_proj, "bias")
            together = torch.cat([ours[f"_{name}_proj"] for name in "qkv"])
            places = [
                ("in_proj_weight", module, together),
                ("weight", module.out_proj, ours["_out_proj"]),
            ]
        else:
            fill(module, "weight")
            fill(module, "bias")
            places = [("weight", module, ours[""])]
        expected = [getattr(owner, name) + update for name, owner, update in places]
        networks.network_apply_weights(module)
        differences = [
            float((getattr(owner, name) - wanted).abs().max())
            for (name, owner, _), wanted in zip(places, expected, strict=True)
        ]
    for name, owner, _ in places:
        setattr(
            owner, name, torch.nn.Parameter(getattr(owner, name).to("meta"), requires_grad=False)
        )
    for name in ("network_weights_backup", "network_bias_backup"):
        setattr(module, name, None)
    return max(differences)


def check(networks, webui, family, path, files):
    """Load one file on its family's model and merge every module."""
    import network

    model = build(webui, family)
    known = adopted(model, family)
    networks.assign_network_names_to_compvis_modules(model)
    heard = Unmatched()
    root = logging.getLogger()
    root.addHandler(heard)
    level = root.level
    root.setLevel(logging.DEBUG)
    on_disk = network.NetworkOnDisk(path.stem, str(path))
    loaded = networks.load_network(path.stem, on_disk)
    loaded.te_multiplier = loaded.unet_multiplier = 1.0
    networks.loaded_networks[:] = [loaded]
    ours, weights = files.deltas_of(path), files.Weights()
    used, worst = set(), 0.0
    for name, module in model.network_layer_mapping.items():
        own = {
            suffix: loaded.modules[name + suffix].network_key.partition(".")[0]
            for suffix in parts_of(module)
            if name + suffix in loaded.modules
        }
        if own and module.__class__.__name__ != "NonDynamicallyQuantizableLinear":
            updates = {suffix: files.delta(ours[key]) for suffix, key in own.items()}
            worst = max(worst, merge(networks, module, weights, updates))
            used.update(own.values())
    root.removeHandler(heard)
    root.setLevel(level)
    networks.loaded_networks.clear()
    return {
        "adopted": known,
        "modules": len(loaded.modules),
        "unmatched": heard.said,
        "errors": dict(networks.extra_network_lora.errors),
        "not merged": sorted(set(ours) - used),
        "largest difference": worst,
        "version": on_disk.sd_version.name,
        "alias": on_disk.alias,
        "hash": on_disk.shorthash,
    }


class Errors:
    """Stands where the extension counts what it could not apply."""

    def __init__(self):
        self.errors = {}


def main():
    """See the top."""
    webui, repository, found = (Path(place).resolve() for place in sys.argv[1:4])
    files = dict(argument.split("=", 1) for argument in sys.argv[4:])
    sys.path.insert(0, str(repository / "tests"))
    import conftest  # noqa: F401  makes the repository importable as lora_loop

    from lora_loop.tests.hosts import network_files

    sys.path.pop(0)
    networks = start(webui)
    networks.extra_network_lora = Errors()
    report = {
        family: check(networks, webui, family, Path(path), network_files)
        for family, path in files.items()
    }
    found.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
