"""The example workflows, made from the nodes' own declarations.

python -m lora_loop.comfy_nodes.examples       writes them into example_workflows/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import table

Link = tuple["Placed", int]

_WIDTH, _GAP = 400, 60
_CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
_CHECKPOINT_XL = "sd_xl_base_1.0.safetensors"
# ComfyUI's own nodes that the examples use: links and widgets, outputs
_NATIVE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": _CHECKPOINT}, ("MODEL", "CLIP", "VAE")),
    "PreviewImage": ({"images": "IMAGE"}, ()),
    "CLIPTextEncode": ({"clip": "CLIP", "text": ""}, ("CONDITIONING",)),
    "EmptyLatentImage": ({"width": 512, "height": 512, "batch_size": 1}, ("LATENT",)),
    "KSampler": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "seed": 1,
            "control_after_generate": "fixed",
            "steps": 20,
            "cfg": 7.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
        },
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
}
_LINK_TYPES = frozenset({"MODEL", "CLIP", "VAE", "IMAGE", "CONDITIONING", "LATENT"})


class Placed:
    """A node of a workflow. given: links as (node, output) and values of widgets, by input."""

    def __init__(self, number: int, kind: str, column: int, row: float, given: dict[str, Any]):
        self.number, self.kind = number, kind
        self.place = [column * (_WIDTH + _GAP), row]
        self.given = given
        links, widgets, self.outputs = _declared(kind)
        unknown = sorted(set(given) - set(links) - set(widgets))
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(unknown)}")
        self.links = links
        self.widgets = {**widgets, **{name: given[name] for name in widgets if name in given}}

    @property
    def height(self) -> int:
        """Pixels, about as the page will need them."""
        return 90 + 26 * (len(self.widgets) + len(self.links)) + 160 * (self.kind in _TALL)


_TALL = frozenset({"LoraLoopTrainLoRA", "LoraLoopBlockWeightPreview", "LoraLoopLoadDataset"})


class Workflow:
    """A graph as ComfyUI's page saves it."""

    def __init__(self) -> None:
        self._nodes: list[Placed] = []
        self._heights: dict[int, float] = {}

    def add(self, column: int, kind: str, /, **given: Any) -> Placed:
        """Add a node below those of its column."""
        name = kind if kind in _NATIVE else table.PREFIX + kind
        row = self._heights.get(column, 0.0)
        node = Placed(len(self._nodes) + 1, name, column, row, given)
        self._heights[column] = row + node.height + _GAP
        self._nodes.append(node)
        return node

    def saved(self) -> dict[str, Any]:
        """The workflow's JSON."""
        links: list[list[Any]] = []
        nodes = [self._saved_node(node, order, links) for order, node in enumerate(self._nodes)]
        for number, source, slot, *_ in links:
            output = nodes[source - 1]["outputs"][slot]
            output["links"] = [*(output["links"] or []), number]
        return {
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    @staticmethod
    def _saved_node(node: Placed, order: int, links: list[list[Any]]) -> dict[str, Any]:
        inputs: list[dict[str, Any]] = []
        for slot, (name, kind) in enumerate(node.links.items()):
            number = None
            if name in node.given:
                source, output = node.given[name]
                number = len(links) + 1
                links.append([number, source.number, output, node.number, slot, kind])
            inputs.append({"name": name, "type": kind, "link": number})
        outputs = [
            {"name": name, "type": kind, "links": None, "slot_index": slot}
            for slot, (name, kind) in enumerate(node.outputs)
        ]
        return {
            "id": node.number,
            "type": node.kind,
            "pos": node.place,
            "size": [_WIDTH, node.height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": node.kind},
            "widgets_values": list(node.widgets.values()),
        }


def _declared(kind: str) -> tuple[dict[str, str], dict[str, Any], list[tuple[str, str]]]:
    """A node's links by type, its widgets with their defaults, and its outputs."""
    if kind in _NATIVE:
        inputs, types = _NATIVE[kind]
        links = {name: value for name, value in inputs.items() if value in _LINK_TYPES}
        widgets = {name: value for name, value in inputs.items() if name not in links}
        return links, widgets, [(own, own) for own in types]
    node: Any = table.node_classes()[kind]
    declared = node.INPUT_TYPES()
    links, widgets = {}, {}
    for name, (own, *options) in {**declared["required"], **declared.get("optional", {})}.items():
        if isinstance(own, str) and own not in {"STRING", "INT", "FLOAT", "BOOLEAN"}:
            links[name] = own
        else:
            default = own[0] if isinstance(own, list) and own else ""
            widgets[name] = options[0].get("default", default) if options else default
    return links, widgets, [*zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)]


def _model(loader: Placed) -> dict[str, Link]:
    return {"model": (loader, 0), "clip": (loader, 1), "vae": (loader, 2)}


def character() -> Workflow:
    """A character for SD 1.5, drawn with a plain KSampler at the end."""
    flow = Workflow()
    loader = flow.add(0, "CheckpointLoaderSimple")
    dataset = flow.add(0, "LoadDataset", folder="my_character", resolution=512)
    train = flow.add(
        1, "TrainLoRA", **_model(loader), dataset=(dataset, 0), name="my_character", max_steps=1200
    )
    flow.add(2, "SaveLoRA", lora=(train, 0), name="my_character")
    preview = flow.add(
        2,
        "BlockWeightPreview",
        **_model(loader),
        lora=(train, 0),
        prompts="my_character, portrait\nmy_character on a beach, full body",
        chosen="ALL",
    )
    positive = flow.add(3, "CLIPTextEncode", clip=(preview, 2), text="my_character, in a forest")
    negative = flow.add(3, "CLIPTextEncode", clip=(preview, 2))
    latent = flow.add(3, "EmptyLatentImage")
    sampler = flow.add(
        4,
        "KSampler",
        model=(preview, 1),
        positive=(positive, 0),
        negative=(negative, 0),
        latent_image=(latent, 0),
    )
    decoded = flow.add(4, "VAEDecode", samples=(sampler, 0), vae=(loader, 2))
    flow.add(4, "PreviewImage", images=(decoded, 0))
    return flow


def style_low_memory() -> Workflow:
    """A style for SDXL where memory is short: no text encoders, checkpointing, batch 1."""
    flow = Workflow()
    loader = flow.add(0, "CheckpointLoaderSimple", ckpt_name=_CHECKPOINT_XL)
    dataset = flow.add(0, "LoadDataset", folder="my_style", resolution=1024)
    network = flow.add(0, "NetworkOptions", text_encoder=False)
    resume = flow.add(0, "ResumeOptions", options=(network, 0), state_every=100)
    train = flow.add(
        1,
        "TrainLoRA",
        **_model(loader),
        dataset=(dataset, 0),
        options=(resume, 0),
        name="my_style",
        rank=8,
        alpha=8.0,
        max_steps=1500,
        gradient_checkpointing=True,
    )
    flow.add(2, "SaveLoRA", lora=(train, 0), name="my_style")
    flow.add(
        2,
        "BlockWeightPreview",
        **_model(loader),
        lora=(train, 0),
        prompts="a harbour at dawn\na portrait of an old man",
        presets="NONE\nALL\nOUTALL\nINALL",
    )
    return flow


def caption_and_train() -> Workflow:
    """Captions first, with samples on the way and the loss plot shown."""
    flow = Workflow()
    loader = flow.add(0, "CheckpointLoaderSimple")
    dataset = flow.add(0, "LoadDataset", folder="my_character", resolution=512)
    captioned = flow.add(
        1, "CaptionDataset", dataset=(dataset, 0), captioner="none", trigger="momo"
    )
    samples = flow.add(1, "SamplesOptions", prompts="momo, portrait", every=200)
    train = flow.add(
        2,
        "TrainLoRA",
        **_model(loader),
        dataset=(captioned, 0),
        options=(samples, 0),
        name="momo",
        max_steps=1000,
    )
    flow.add(3, "PreviewImage", images=(train, 3))
    flow.add(3, "SaveLoRA", lora=(train, 0), name="momo", trigger="momo")
    flow.add(4, "BlockWeightPreview", **_model(loader), lora=(train, 0), prompts="momo, portrait")
    return flow


def block_study() -> Workflow:
    """What the blocks of a LoRA do that is there already, and a file with the best of them."""
    flow = Workflow()
    loader = flow.add(0, "CheckpointLoaderSimple")
    lora = flow.add(0, "LoadLoRAForTest")
    preview = flow.add(
        1,
        "BlockWeightPreview",
        **_model(loader),
        lora=(lora, 0),
        prompts="portrait of a woman",
        chosen="NOFACE",
    )
    flow.add(2, "PreviewImage", images=(preview, 0))
    flow.add(2, "BakeLoRA", lora=(lora, 0), name="my_lora_noface", block_weights="NOFACE")
    return flow


EXAMPLES = {
    "sd15_character": character,
    "sdxl_style_low_memory": style_low_memory,
    "caption_train_preview": caption_and_train,
    "block_study": block_study,
}


def texts() -> dict[str, str]:
    """Every example's file by its name, without the ending."""
    return {
        name: json.dumps(make().saved(), ensure_ascii=False, indent=1) + "\n"
        for name, make in EXAMPLES.items()
    }


def write(root: Path) -> None:
    """Write all examples below `root`."""
    folder = root / "example_workflows"
    folder.mkdir(exist_ok=True)
    for name, text in texts().items():
        (folder / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    from . import door, still_host

    door.use(still_host.StillHost())
    write(Path(__file__).parents[1])
