"""Run by ComfyUI's Python: baked files by its own loader, their sources by the Inspire pack's.

python comfyui_kept.py COMFYUI REPOSITORY FOUND FOLDER INSPIRE
"""

import asyncio
import importlib
import json
import sys
from pathlib import Path

ALGORITHMS = ("lora", "loha", "lokr")
VECTORS = {
    "LyNOFACE": "1,1,1,1,1,1,0,0,0,0,0,0,0,1,1,1,1",
    "halves": "1,0.5,0,1,0.25,1,0,2,-0.5,1,0,0.75,0,1,0,1,0.5",
}
LOADER = {"model": ["1", 0], "clip": ["1", 1]}


class Host:
    """A ComfyUI with its folders in `folder`, with the Inspire pack and, on demand, ours."""

    def __init__(self, host, repository, folder, inspire):
        sys.path.insert(0, str(Path(__file__).parent))
        self.tests = importlib.import_module("comfyui_nodes")
        self.tests.make_inputs(Path(repository), Path(folder))
        self.checkpoint = Path(folder) / "models/checkpoints/thin.safetensors"
        self.loras = Path(folder) / "models/loras"
        sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(folder)]
        sys.path.insert(0, host)
        import comfy.options

        comfy.options.enable_args_parsing()
        # before nodes, which put another `utils` first
        importlib.import_module("utils.extra_config")
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.runner = self.tests.Runner(loop)
        nodes = self.runner.nodes
        assert loop.run_until_complete(nodes.load_custom_node(inspire)), "the pack does not load"
        nodes.NODE_CLASS_MAPPINGS["Keep"] = self.tests.Keep
        self.ends = []

    def picture(self, loader=None, **changes):
        """The picture (B, height, width, RGB), 0 to 1, through a node that loads a LoRA, or none.

        changes: of KSampler's inputs, and the picture's `side`.
        """
        place = "1" if loader is None else "6"
        side = changes.pop("side", self.tests.SIDE)
        first = self.runner.node("CheckpointLoaderSimple", ckpt_name=self.checkpoint.name)
        graph = {"1": first, **self.tests.sampled(self.runner, [place, 0], [place, 1], **changes)}
        graph["22"]["inputs"].update({"width": side, "height": side})
        if loader is not None:
            graph["6"] = loader
        self.ends += [end for end, _ in self.runner.run(graph)]
        return self.tests.Keep.kept["picture"]

    def plain(self, file):
        """The host's own node that loads a LoRA."""
        return self.runner.node("LoraLoader", **LOADER, lora_name=file)

    def inspire(self, file, vector):
        """The pack's node that loads a LoRA with block weights."""
        return self.runner.node(
            "LoraLoaderBlockWeight //Inspire",
            **LOADER,
            category_filter="All",
            lora_name=file,
            preset="Preset",
            block_vector=vector,
        )


def compare(host):
    """The largest differences of the pictures, of 255, for each algorithm and vector."""
    from lora_loop.core.adapters.block_weights import BlockWeights
    from lora_loop.core.adapters.inspire import inspire_vector, positions_of
    from lora_loop.core.files.adapter_file import read_adapters
    from lora_loop.core.keep.operations import Bake, bake_file
    from lora_loop.tests.hosts.network_files import write_random

    before, differences = host.picture(), {}
    for number, algorithm in enumerate(ALGORITHMS):
        source = host.loras / f"{algorithm}.safetensors"
        write_random(host.checkpoint, source, algorithm, number)
        positions = positions_of(read_adapters(source).layers)
        whole = host.picture(host.plain(source.name))
        for name, vector in VECTORS.items():
            baked = host.loras / f"{algorithm}-{name}.safetensors"
            bake_file(source, Bake(weights=vector, rank=64), baked)
            theirs = inspire_vector(BlockWeights.parse(vector, "sd1"), positions)
            live = host.picture(host.inspire(source.name, theirs))
            others = {
                "baked": host.picture(host.plain(baked.name)),
                "whole": whole,
                "without": before,
            }
            differences[f"{algorithm} {name}"] = {
                which: float((live - other).abs().max()) * 255 for which, other in others.items()
            }
    return differences


def main(host, repository, found, folder, inspire):
    """See the top."""
    running = Host(host, repository, folder, inspire)
    sys.path.insert(0, str(Path(repository) / "tests"))
    import conftest  # noqa: F401  makes the repository importable as lora_loop

    sys.path.pop(0)
    differences = compare(running)
    Path(found).write_text(json.dumps({"ends": running.ends, "differences": differences}))


if __name__ == "__main__":
    main(*sys.argv[1:6])
