"""What is written on a grid's sheet: title, labels of columns, rows and pages, and the facts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..config.fields import Text
from ..models.base_model import BaseModel
from .difference import FULL_HEAT, THRESHOLD
from .sheet import Sheet
from .table import Label, Language, Table

WORDS = {
    "title": Text("Block weights of {network} on {base}", "{network} 在 {base} 上的分层权重"),
    "network": Text("the network", "网络"),
    "same": Text("same as {earlier}", "与 {earlier} 相同"),
    "base": Text(
        f"difference to the base model, and pixels that changed by more than {THRESHOLD} of 255",
        f"与底模的差异，以及变化超过 {THRESHOLD}/255 的像素比例",
    ),
    "first": Text(
        f"difference to the first picture, and pixels that changed by more than {THRESHOLD} of 255",
        f"与本行第一张图的差异，以及变化超过 {THRESHOLD}/255 的像素比例",
    ),
    "scale": Text("difference 0", "差异 0"),
    "full": Text(f"{FULL_HEAT} and more of 255", f"{FULL_HEAT}/255 及以上"),
    "seed": Text("seed {seed}", "种子 {seed}"),
    "steps": Text("{steps} steps", "{steps} 步"),
    "guidance": Text("guidance {guidance:g}", "引导 {guidance:g}"),
    "size": Text("{width}x{height} pixels", "{width}x{height} 像素"),
    "model": Text("base {base}", "底模 {base}"),
    "own": Text("network {network}", "网络 {network}"),
    "negative": Text("negative prompt: {text}", "反向提示词：{text}"),
    "prompt": Text("prompt: {text}", "提示词：{text}"),
}


def say(name: str, language: Language, **facts: object) -> str:
    """Give one of the sheet's texts in a language."""
    return getattr(WORDS[name], language).format(**facts)


def write_legend(base: BaseModel, table: Table, columns: Sequence[Hashable]) -> Sheet:
    """Write a sheet's words; a column that equals an earlier one says so.

    columns: what the pictures of each column depend on.
    """
    language = table.language
    name = table.network_name or say("network", language)
    return Sheet(
        title=say("title", language, network=name, base=base.name),
        columns=_same(table.columns, columns, language),
        rows=table.rows,
        pages=table.pages,
        footer=" | ".join(_facts(base, table)),
        picture_size=table.settings.size(base),
        compares=say(table.compare, language) if table.compare else "",
        scale=(say("scale", language), say("full", language)),
    )


def _same(
    labels: Sequence[Label], columns: Sequence[Hashable], language: Language
) -> tuple[Label, ...]:
    first: dict[Hashable, str] = {}
    written = []
    for label, column in zip(labels, columns, strict=True):
        earlier = first.setdefault(column, label.title)
        same = label.note if earlier == label.title else say("same", language, earlier=earlier)
        written.append(Label(label.title, same))
    return tuple(written)


def _facts(base: BaseModel, table: Table) -> list[str]:
    """Give what all cells have in common."""
    settings, language = table.settings, table.language
    width, height = settings.size(base)
    cells = [cell for _, cell in table.places()]
    seeds = dict.fromkeys(cell.seed for cell in cells)
    prompts = dict.fromkeys(cell.prompt.text for cell in cells)
    negatives = dict.fromkeys(cell.prompt.negative for cell in cells if cell.prompt.negative)
    own = table.network_name
    return [
        *(say("prompt", language, text=text) for text in prompts if len(prompts) == 1 and text),
        *(say("negative", language, text=text) for text in negatives),
        *(say("seed", language, seed=seed) for seed in seeds if len(seeds) == 1),
        " ".join(settings.sampler_titles).strip(),
        say("steps", language, steps=settings.steps),
        say("guidance", language, guidance=settings.guidance),
        say("size", language, width=width, height=height),
        say("model", language, base=base.name),
        *([say("own", language, network=own)] if own else []),
    ]
