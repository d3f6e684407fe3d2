"""Pictures with many block weights beside as many pictures with one: what changing them costs.

    python bench/previews.py --algorithm loha --vectors 30 --steps 20

On the embedded model, variants taking turns picture by picture: without a network, with a network
whose weights stay, and with other block weights for each picture. Then, with a trained network,
the cells of grids over the same weights, in turn with as many pictures without a network and with
all of it. The processor's own time is counted, which other programs on the machine change little.
Printed, and with --output written as one line of JSON.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from step import load_package

_CELLS = 4  # of one grid: pictures of each kind take turns often, as a machine's pace changes
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure one algorithm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", default="loha")
    parser.add_argument("--vectors", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    load_package()
    torch.set_num_threads(1)
    result = measure(options.algorithm, options.vectors, options.steps)
    print(json.dumps(result, indent=1))
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def measure(algorithm: str, vectors: int, steps: int) -> dict[str, object]:
    """Draw `vectors` pictures each way; medians of the processor's seconds, and their ratios."""
    from lora_loop.core import session
    from lora_loop.core.adapters.applied import AppliedNetwork
    from lora_loop.core.adapters.targets import find_layers
    from lora_loop.core.config.recipe import BaseConfig, MemoryConfig
    from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

    base = session.open_base(BaseConfig(), MemoryConfig(precision="fp32"), torch.device("cpu"))
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = {p: m for p, m in find_layers(base.parts).items() if isinstance(m, kinds)}
    network = AppliedNetwork(random_updates()(algorithm, layers, 0.05))
    settings = DrawSettings(steps=steps, seed=1)
    chance = torch.Generator().manual_seed(0)
    weights = [
        session.BlockWeights.parse(torch.rand(26, generator=chance).tolist())
        for _ in range(vectors)
    ]
    seconds: dict[str, list[float]] = {"plain": [], "one": [], "many": []}

    def picture(name: str) -> None:
        start = time.process_time()
        draw(base, [Prompt("a red circle")], settings)
        seconds[name].append(time.process_time() - start)

    picture("plain")  # the first one warms up
    seconds["plain"].clear()
    for own in weights:
        picture("plain")
        with network.attached(base.parts):
            picture("one")
            start = time.process_time()
            network.set_strength(block_weights=own)
            changed = time.process_time() - start
            picture("many")
            seconds["many"][-1] += changed
            network.set_strength()
    plain, one, many = (statistics.median(seconds[name]) for name in ("plain", "one", "many"))
    bare, whole, cells = grids(base, weights, settings)
    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "algorithm": algorithm,
        "vectors": vectors,
        "steps": steps,
        "layers": len(layers),
        "plain_s": round(plain, 4),
        "one_over_plain": round(one / plain, 4),
        "many_over_one": round(many / one, 4),
        "many_over_plain": round(many / plain, 4),
        "trained_over_plain": round(whole / bare, 4),
        "cell_of_a_grid_over_one": round(cells / whole, 4),
        "cell_of_a_grid_over_plain": round(cells / bare, 4),
    }


def grids(base: Any, weights: Any, settings: Any) -> tuple[float, float, float]:
    """Medians of seconds a picture: without a network, with a trained one, and in its grids."""
    from lora_loop.core import session
    from lora_loop.core.adapters.network import Network
    from lora_loop.core.adapters.targets import find_targets
    from lora_loop.core.config.recipe import NetworkConfig
    from lora_loop.core.events import CellDrawn
    from lora_loop.core.preview.grid import GridRequest
    from lora_loop.core.preview.sampling import Prompt, draw

    network = Network.create(find_targets(base.parts), NetworkConfig(rank=16), seed=0)
    prompt, bare, one, cells = Prompt("a red circle"), [], [], []
    chance = torch.Generator().manual_seed(1)
    network.load_parameters(
        {
            name: 0.05 * torch.randn(own.shape, generator=chance)
            for name, own in network.named_parameters().items()
        }
    )
    for start in range(0, len(weights), _CELLS):
        chosen = tuple(weights[start : start + _CELLS])
        for _ in chosen:
            began = time.process_time()
            draw(base, [prompt], settings)
            bare.append(time.process_time() - began)
            with network.attached(base.parts):
                began = time.process_time()
                draw(base, [prompt], settings)
                one.append(time.process_time() - began)
        ends: list[float] = []

        def listen(event: object, ends: list[float] = ends) -> None:
            if isinstance(event, CellDrawn):
                ends.append(time.process_time())

        request = GridRequest(prompts=(prompt,), presets=chosen, settings=settings)
        session.preview(base, network, request, listen)
        cells += [later - earlier for earlier, later in itertools.pairwise(ends)]
    return statistics.median(bare), statistics.median(one), statistics.median(cells)


def random_updates():
    """The tests' helper that makes updates of every algorithm."""
    path = ROOT / "tests/core/adapters/random_updates.py"
    spec = importlib.util.spec_from_file_location("random_updates", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["random_updates"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.random_updates


if __name__ == "__main__":
    main()
