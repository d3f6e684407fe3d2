"""Run by ComfyUI's Python: our nodes in a graph that ComfyUI's own executor runs.

python comfyui_nodes.py COMFYUI REPOSITORY FOUND FOLDER

FOLDER: for models, inputs and outputs. A checkpoint of random weights is made there; it is thin
where ComfyUI allows it.
"""

import asyncio
import gc
import hashlib
import importlib.util
import json
import logging
import sys
import time
from pathlib import Path

SIDE = 64
STEPS = 4


class Warnings(logging.Handler):
    """Keeps what the host says of keys that it did not load."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


class Keep:
    """A node that hands what reaches it to these tests."""

    kept = {}  # noqa: RUF012 - the tests' one place
    RETURN_TYPES = ()
    FUNCTION = "keep"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"what": ("*", {}), "name": ("STRING", {"default": ""})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802 - ComfyUI's name
        return True

    def keep(self, what, name):
        Keep.kept[name] = what
        return ()


class Page:
    """Stands in for the page: what the server tells it is kept, and may press Cancel."""

    def __init__(self, server):
        self.events, self.cancel_at = [], None
        server.send_sync = self.send_sync

    def send_sync(self, event, data, sid=None):
        self.events.append((event, data))
        is_step = event == "lora_loop.train" and data.get("losses")
        if self.cancel_at is not None and is_step:
            import comfy.model_management

            self.cancel_at = None
            comfy.model_management.interrupt_current_processing()


class Runner:
    """Runs graphs as ComfyUI's worker does, one after the other, with its cache between them."""

    def __init__(self, loop):
        import execution
        import nodes
        import server

        self.server = server.PromptServer(loop)
        self.page = Page(self.server)
        self.server.client_id = "tests"
        self.nodes = nodes
        self.executor = execution.PromptExecutor(self.server)
        self.count = 0

    def run(self, graph):
        """The messages that tell how it ended."""
        import execution
        import torch

        self.count += 1
        outputs = [key for key, node in graph.items() if node["class_type"] in OUTPUTS]
        valid = asyncio.run(execution.validate_prompt(str(self.count), graph, None))
        assert valid[0], valid
        assert not valid[3], valid
        with torch.inference_mode():
            self.executor.execute(graph, str(self.count), {"client_id": "tests"}, outputs)
        return [
            (name, data.get("exception_message", ""))
            for name, data in self.executor.status_messages
            if name in {"execution_error", "execution_interrupted", "execution_success"}
        ]

    def defaults(self, name):
        found = {}
        for key, spec in self.nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"].items():
            options = spec[1] if len(spec) > 1 else {}
            if "default" in options:
                found[key] = options["default"]
            elif isinstance(spec[0], list) and spec[0]:
                found[key] = spec[0][0]
        return found

    def node(self, name, /, **inputs):
        return {"class_type": name, "inputs": {**self.defaults(name), **inputs}}


OUTPUTS = {"Keep", "LoraLoopSaveLoRA", "LoraLoopTrainLoRA", "LoraLoopBlockWeightPreview"}
LOADER = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}


def sampled(runner, model, clip, **changes):
    """The nodes of a picture: texts, KSampler, decoder, and Keep under the name "picture"."""
    common = {"seed": 5, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    return {
        "20": runner.node("CLIPTextEncode", text="momo on a hill", clip=clip),
        "21": runner.node("CLIPTextEncode", text="", clip=clip),
        "22": runner.node("EmptyLatentImage", width=SIDE, height=SIDE),
        "23": runner.node(
            "KSampler",
            model=model,
            positive=["20", 0],
            negative=["21", 0],
            latent_image=["22", 0],
            **{**common, **changes},
        ),
        "24": runner.node("VAEDecode", samples=["23", 0], vae=["1", 2]),
        "25": runner.node("Keep", what=["24", 0], name="picture"),
    }


def training(runner, **changes):
    widgets = {
        "rank": 4,
        "alpha": 4.0,
        "max_steps": STEPS,
        "unet_lr": 1e-2,
        "text_encoder_lr": 1e-2,
        **changes,
    }
    return {
        "2": runner.node("LoraLoopLoadDataset", folder="momo", resolution=SIDE),
        "3": runner.node("LoraLoopTrainLoRA", **LOADER, dataset=["2", 0], **widgets),
        "4": runner.node("Keep", what=["3", 0], name="lora"),
    }


def with_samples(runner, graph):
    """A training that draws a picture after each step."""
    samples = runner.node(
        "LoraLoopSamplesOptions", prompts="momo", every=1, steps=1, width=SIDE, height=SIDE
    )
    train = {**graph["3"], "inputs": {**graph["3"]["inputs"], "options": ["8", 0]}}
    return {**graph, "3": train, "8": samples}


def checksum(loader):
    """A hash of every number of MODEL, CLIP and VAE as they are in memory, patches taken out."""
    import comfy.model_management
    import torch

    model, clip, vae = loader
    comfy.model_management.load_models_gpu([model, clip.patcher, vae.patcher], force_full_load=True)
    digest = hashlib.sha256()
    for part in (model.model, clip.cond_stage_model, vae.first_stage_model):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tensor.requires_grad}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def memory():
    """MiB of the process after a collection."""
    import ctypes

    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**20


def main(host, repository, found, folder):
    folder = Path(folder)
    sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(folder)]
    sys.path.insert(0, host)
    said = Warnings()
    logging.getLogger().addHandler(said)
    make_inputs(Path(repository), folder)

    import comfy.options

    comfy.options.enable_args_parsing()
    importlib.import_module("utils.extra_config")  # before nodes, which put another `utils` first
    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    runner = Runner(loop)
    assert loop.run_until_complete(nodes.load_custom_node(repository)), "our nodes do not load"
    nodes.NODE_CLASS_MAPPINGS["Keep"] = Keep
    findings = Findings(runner, said)
    try:
        findings.gather()
    finally:
        Path(found).write_text(json.dumps(findings.facts), encoding="utf-8")


class Findings:
    """What happens, in the order in which it is tried."""

    def __init__(self, runner, said):
        self.runner, self.said, self.facts = runner, said, {}
        self.loader = {"1": runner.node("CheckpointLoaderSimple", ckpt_name="thin.safetensors")}

    def gather(self):
        kept, runner = Keep.kept, self.runner
        plain = {**self.loader, **sampled(runner, ["1", 0], ["1", 1])}
        for index, key in enumerate(("model", "clip", "vae")):
            plain[f"1{index}"] = runner.node("Keep", what=["1", index], name=key)
        self.run("first picture", plain)
        self.before = kept["picture"]
        self.weights = checksum([kept[key] for key in ("model", "clip", "vae")])
        # what only the first training takes: modules that are imported, memory that is kept
        self.run("warm up", {**self.loader, **training(runner, max_steps=1)})
        self.memory = memory()
        self.cancel()
        self.resume_and_save()
        self.previews()
        self.analyzed()
        self.caches()
        self.incoming_patches()
        self.broken()
        self.phases()

    def run(self, name, graph):
        began = time.monotonic()
        self.facts[name] = self.runner.run(graph)
        self.facts[f"{name}: seconds"] = time.monotonic() - began

    def as_before(self, name):
        """Whether weights, picture and memory are as before anything was trained."""
        import torch

        kept, runner = Keep.kept, self.runner
        weights = checksum([kept[key] for key in ("model", "clip", "vae")])
        # another seed in between: the executor must not answer from its cache
        self.runner.run({**self.loader, **sampled(runner, ["1", 0], ["1", 1], seed=runner.count)})
        self.runner.run({**self.loader, **sampled(runner, ["1", 0], ["1", 1])})
        self.facts[f"{name}: weights as before"] = weights == self.weights
        self.facts[f"{name}: picture as before"] = torch.equal(kept["picture"], self.before)
        self.facts[f"{name}: memory"] = memory() / self.memory

    def cancel(self):
        self.runner.page.cancel_at = 1
        self.run("cancel", {**self.loader, **training(self.runner)})
        folder = own_folder()
        self.facts["cancel: files"] = sorted(path.name for path in folder.iterdir())
        self.as_before("cancel")

    def resume_and_save(self):
        runner = self.runner
        runner.page.events.clear()
        graph = {
            **self.loader,
            **training(runner),
            "5": runner.node("LoraLoopSaveLoRA", lora=["3", 0], name="momo", precision="fp32"),
        }
        self.run("resume", graph)
        steps = [d for e, d in runner.page.events if e == "lora_loop.train" and d.get("losses")]
        self.facts["resume: first step"] = steps[0]["first"]
        loaders = runner.nodes.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
        self.facts["resume: lists of LoraLoader"] = list(loaders)
        self.as_before("success")

    def previews(self):
        """One picture on four ways: our MODEL, LoraLoader, BlockWeightPreview, without a LoRA."""
        kept, runner = Keep.kept, self.runner
        graph = {**self.loader, **training(runner)}
        ours = {**graph, **sampled(runner, ["3", 1], ["3", 2])}
        self.run("with our MODEL", ours)
        live = kept["picture"]
        self.said.said.clear()
        loader = runner.node(
            "LoraLoader", model=["1", 0], clip=["1", 1], lora_name="momo.safetensors"
        )
        through = {**self.loader, "6": loader, **sampled(runner, ["6", 0], ["6", 1])}
        self.run("with LoraLoader", through)
        self.facts["LoraLoader: not loaded"] = [
            line for line in self.said.said if "not loaded" in line.lower()
        ]
        self.facts["LoraLoader: difference"] = float((kept["picture"] - live).abs().max())
        self.facts["LoRA: difference to none"] = float((self.before - live).abs().max())
        preview = runner.node(
            "LoraLoopBlockWeightPreview",
            **LOADER,
            lora=["3", 0],
            prompts="momo on a hill",
            presets="NONE\nALL\nINS",
            chosen="OUTALL",
            preview_seed=5,
            steps=3,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            width=SIDE,
            height=SIDE,
        )
        self.run("grid", {**graph, "7": preview})
        node = runner.executor.caches.objects.get("7")
        cells = list(node._memory._pictures.values())
        self.facts["grid: cells"] = len(cells)
        shown = [as_levels(cell) for cell in cells]
        self.facts["grid: NONE as KSampler"] = same(shown[0], self.before)
        self.facts["grid: ALL as KSampler"] = same(shown[1], live)
        chosen = {**graph, "7": preview, **sampled(runner, ["7", 1], ["7", 2])}
        self.run("with the chosen blocks", chosen)
        self.facts["grid: chosen as KSampler"] = same(shown[3], kept["picture"])
        self.facts["grid: chosen is not all"] = not same(shown[3], live)

    def caches(self):
        """A changed seed or preset downstream, and samples on the way, do not train again."""
        runner = self.runner
        graph = {**self.loader, **training(runner)}
        seeded = {**graph, **sampled(runner, ["3", 1], ["3", 2], seed=99)}
        for name, own in {"another seed": seeded, "samples": with_samples(runner, graph)}.items():
            runner.page.events.clear()
            self.run(name, own)
            self.facts[f"{name}: trained"] = any(
                event == "lora_loop.train" and bool(data.get("losses"))
                for event, data in runner.page.events
            )
        short = {**self.loader, **training(runner, start="restart", max_steps=2)}
        self.run("pictures on the way", with_samples(runner, short))
        pictures = sorted((own_folder()).glob("*-samples/*.png"))
        self.facts["pictures on the way: files"] = [path.name for path in pictures]
        self.compare_last_sample(pictures[-1])
        self.as_before("pictures on the way")

    def compare_last_sample(self, path):
        """The picture after the last step, by our live network, and what a KSampler draws."""
        import numpy as np
        from PIL import Image

        runner = self.runner
        graph = {**self.loader, **training(runner, start="restart", max_steps=2)}
        graph = with_samples(runner, graph)
        after = sampled(
            runner,
            ["3", 1],
            ["3", 2],
            seed=1,
            steps=1,
            cfg=7.0,
            sampler_name="dpmpp_2m",
            scheduler="karras",
        )
        after["20"]["inputs"]["text"] = "momo"
        self.runner.run({**graph, **after})
        drawn = np.asarray(Image.open(path), np.float32) / 255
        kept = Keep.kept["picture"][0].numpy()
        self.facts["pictures on the way: difference"] = float(abs(drawn - kept).max())

    def incoming_patches(self):
        """Trainings on a MODEL that carries a LoRA: with it, and without it."""
        runner = self.runner
        loader = runner.node(
            "LoraLoader", model=["1", 0], clip=["1", 1], lora_name="momo.safetensors"
        )
        names = set()
        for choice in ("part of the base", "left out"):
            graph = {**self.loader, "6": loader, **training(runner, incoming_patches=choice)}
            graph["3"]["inputs"].update({"model": ["6", 0], "clip": ["6", 1]})
            self.run(choice, graph)
            names.add(Keep.kept["lora"].path.name)
            self.facts[f"{choice}: file"] = Keep.kept["lora"].path.name
        self.as_before("incoming patches")

    def broken(self):
        """Errors in the middle: the sentence on the node, and the host as before."""
        trainer = next(
            module for name, module in sys.modules.items() if name.endswith(".core.train.trainer")
        )
        whole = trainer.Trainer.advance
        for rank, (name, error) in enumerate(ERRORS.items(), 5):  # trainings of their own
            count = [0]

            def advance(self, count=count, error=error):
                count[0] += 1
                if count[0] > 2:
                    raise error()
                return whole(self)

            trainer.Trainer.advance = advance
            try:
                self.run(name, {**self.loader, **training(self.runner, rank=rank)})
            finally:
                trainer.Trainer.advance = whole
            self.as_before(name)

    def phases(self):
        """Cancel, and too little memory, in encoding pictures, saving a file, drawing a grid."""
        runner, rank = self.runner, 10
        for phase, (place, owner, function) in PHASES.items():
            module = next(m for name, m in sys.modules.items() if name.endswith(place))
            holder = getattr(module, owner) if owner else module
            for kind in ("cancel", "out of memory"):
                rank += 1  # trainings of their own
                name = f"{kind} while {phase}"
                graph = {**self.loader, **training(runner, rank=rank)}
                if phase == "drawing":
                    graph["7"] = runner.node(
                        "LoraLoopBlockWeightPreview",
                        **LOADER,
                        lora=["3", 0],
                        prompts="momo",
                        presets="NONE\nALL",
                        steps=2,
                        width=SIDE,
                        height=SIDE,
                    )
                whole = getattr(holder, function)
                setattr(holder, function, broken_off(whole, kind))
                try:
                    self.run(name, graph)
                finally:
                    setattr(holder, function, whole)
                self.as_before(name)

    def analyzed(self):
        """AnalyzeBlocks on the network that was trained."""
        graph = {**self.loader, **training(self.runner)}
        graph["9"] = self.runner.node("LoraLoopAnalyzeBlocks", **LOADER, lora=["3", 0], samples=1)
        graph["10"] = self.runner.node("Keep", what=["9", 1], name="table")
        self.run("analyzed", graph)
        self.facts["analyzed: table"] = Keep.kept["table"]
        self.as_before("analyzed")


# what each phase calls: the end of its module's name, its class, the function
PHASES = {
    "encoding": (".core.models.base_model", "BaseModel", "encode_images"),
    "saving": (".core.train.saving", "", "write_network"),
    "drawing": ("comfy.sample", "", "sample"),
}


def broken_off(whole, kind):
    """The function with an end that somebody, or the memory, puts to it."""
    import comfy.model_management

    def called(*values, **named):
        if kind == "out of memory":
            raise out_of_memory()
        comfy.model_management.interrupt_current_processing()
        return whole(*values, **named)

    return called


def out_of_memory():
    import torch

    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


ERRORS = {"out of memory": out_of_memory, "error": lambda: ZeroDivisionError("a mistake")}


def own_folder():
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "lora_loop"


def as_levels(picture):
    import numpy as np

    return np.asarray(picture)


def same(levels, tensor):
    """Whether a picture is what SaveImage makes of an IMAGE."""
    import numpy as np

    expected = np.clip(255.0 * tensor[0].numpy(), 0, 255).astype(np.uint8)
    return bool((levels == expected).all())


def make_inputs(repository, folder):
    import torch

    path = repository / "tests/core/models/make_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_checkpoint", path)
    helper = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = helper
    spec.loader.exec_module(helper)
    for name in ("models/checkpoints", "models/loras", "input/momo", "output", "temp", "user"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shape = helper.Sd1Shape(unet=(320, 320, 320, 320))
    checkpoint = folder / "models/checkpoints/thin.safetensors"
    if not checkpoint.exists():
        helper.write_sd1_checkpoint(checkpoint, shape=shape, seed=3, dtype=torch.float16)
    pictures = repository / "core/demo/dataset/10_momo"
    for picture in sorted(pictures.iterdir())[:6]:
        target = folder / "input/momo" / picture.name
        target.write_bytes(picture.read_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:5])
