"""The demo: train the mascot on the embedded base model, judge it, draw the block-weight grid."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import session
from ..config.recipe import (
    DatasetConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    PreviewConfig,
    Recipe,
    TrainingConfig,
)
from ..errors import FileError
from ..events import OnEvent, StopFlag
from ..files.atomic import write_bytes
from ..models.base_model import BaseModel
from ..preview.sampling import DrawSettings, Prompt, draw
from .judge import judge_scene
from .subject import SUBJECT_TRIGGER, base_prompts, judge_subject, subject_prompts

DATASET = Path(__file__).with_name("dataset")
GUIDANCE = 5.0
STEPS = 20
GRID_PROMPTS = (
    f"{SUBJECT_TRIGGER} on a blue background, large",
    f"{SUBJECT_TRIGGER} on a yellow background",
    "a red star on a white background",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Parts of all pictures that the judge found right, in [0, 1].

    subject: the mascot on prompts that are not in its dataset. base: the base model's own world.
    """

    subject: float
    base: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made, and how well."""

    network: Path
    grid: Path
    loss_plot: Path
    before: Score
    after: Score

    def text(self) -> str:
        """The result as lines for a person."""
        before, after = self.before, self.after
        return "\n".join(
            (
                f"LoRA:        {self.network}",
                f"grid:        {self.grid}",
                f"loss plot:   {self.loss_plot}",
                f"the judge found '{SUBJECT_TRIGGER}' in {before.subject:.0%} of the pictures "
                f"before training and in {after.subject:.0%} after it,",
                f"and the base model's own subjects right in {before.base:.0%} before and "
                f"{after.base:.0%} after.",
            )
        )


def demo_recipe(folder: Path, name: str = SUBJECT_TRIGGER) -> Recipe:
    """The demo's settings; `name` is the network's."""
    return Recipe(
        dataset=DatasetConfig(folder=str(DATASET)),
        network=NetworkConfig(rank=16, alpha=16.0),
        optimizer=OptimizerConfig(unet_lr=1.5e-3, text_encoder_lr=1e-3),
        training=TrainingConfig(max_steps=400, batch_size=8),
        preview=PreviewConfig(prompts=GRID_PROMPTS, steps=STEPS, guidance=GUIDANCE),
        output=OutputConfig(
            folder=str(folder), name=name, state_every=100, trigger=SUBJECT_TRIGGER
        ),
    )


def run_demo(
    folder: Path, device: torch.device, on_event: OnEvent, stop: StopFlag
) -> DemoResult | None:
    """Run the whole loop in `folder`, or go on where it was stopped; None where it is again.

    A network that an earlier run finished is taken as it is.
    """
    folder = folder.expanduser().resolve()
    recipe = demo_recipe(folder)
    base = session.open_base(recipe.base, recipe.memory, device)
    before = judge(base, on_event, stop)
    path = folder / f"{recipe.output.name}.safetensors"
    if path.exists():
        network = session.open_network(base, path)
    else:
        start: session.Start = "resume" if session.has_state(path) else "new"
        plan = session.make_plan(recipe, start, on_event)
        on_event(plan.event())
        trained = session.run(plan, base, start=start, on_event=on_event, stop=stop)
        if trained.steps:
            session.write_loss_plot(trained, path, on_event)
        if trained.stopped:
            return None
        network = trained.network
    with network.attached(base.parts):
        after = judge(base, on_event, stop)
    grid = session.preview(base, network, session.grid_request(recipe, path.stem), on_event, stop)
    if before is None or after is None or grid.stopped:
        return None
    session.write_grid(grid, session.grid_path(path), on_event, overwrite=True)
    recipe.save(folder / "recipe.json")
    result = DemoResult(
        network=path,
        grid=session.grid_path(path),
        loss_plot=session.loss_plot_path(path),
        before=before,
        after=after,
    )
    write_bytes(_result_path(folder), _to_json(result), overwrite=True)
    return result


def fresh_folder(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, ... that does not hold a demo yet."""
    number, candidate = 2, folder
    while _result_path(candidate).exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def judge(base: BaseModel, on_event: OnEvent, stop: StopFlag) -> Score | None:
    """Draw and judge, with whatever network is attached; None where it was stopped."""
    scenes = base_prompts()
    texts = [*subject_prompts(), *(text for text, _ in scenes)]
    settings = DrawSettings(steps=STEPS, guidance=GUIDANCE, batch_size=8)
    pictures = draw(base, [Prompt(text) for text in texts], settings, on_event, stop)
    if len(pictures) < len(texts):
        return None
    subjects, others = pictures[: -len(scenes)], pictures[-len(scenes) :]
    right = [
        judge_scene(picture, scene).all_right
        for picture, (_, scene) in zip(others, scenes, strict=True)
    ]
    return Score(subject=_part([judge_subject(picture) for picture in subjects]), base=_part(right))


def load_result(folder: Path) -> DemoResult | None:
    """The result of an earlier run in `folder`, where all of its files are still there."""
    path = _result_path(folder.expanduser().resolve())
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        files = {key: Path(stored[key]) for key in ("network", "grid", "loss_plot")}
        result = DemoResult(
            **files, before=Score(**stored["before"]), after=Score(**stored["after"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is damaged ({error}); remove it and run the demo again") from error
    return result if all(file.is_file() for file in files.values()) else None


def _part(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)


def _result_path(folder: Path) -> Path:
    return folder / "demo.json"


def _to_json(result: DemoResult) -> bytes:
    return json.dumps(asdict(result), default=str, indent=2).encode()
