"""The axes of a grid: what changes from column to column, from row to row, from page to page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, get_args

from ..adapters.block_weights import BlockWeights
from ..config.fields import Text
from ..errors import ConfigError
from .sampling import DrawSettings, Prompt
from .table import Cell, Label, Language, Table

AxisKind = Literal[
    "none",
    "weights",
    "blocks",
    "values",
    "seed",
    "weight",
    "unet",
    "text_encoder",
    "network",
    "prompt",
]
MOST_CELLS = 4096
_MOST_SEEDS = 256
_RANGE = re.compile(r"(\d{1,20})\s*-\s*(\d{1,20})")


@dataclass(frozen=True, slots=True)
class AxisWords:
    """What an axis is called, and what its entries are."""

    label: Text
    help: Text


AXES: Mapping[AxisKind, AxisWords] = {
    "none": AxisWords(Text("nothing", "无"), Text("The axis is not used.", "不使用此轴。")),
    "weights": AxisWords(
        Text("block weights", "分层权重"),
        Text(
            "Presets, whole vectors or ranges of blocks: NOFACE; 1,0,...,1; IN04-IN08=0.5. On two "
            "axes, the second fills the blocks that the first leaves at 0.",
            "预设、完整向量或层的范围：NOFACE；1,0,...,1；IN04-IN08=0.5。用在两个轴上时，第二个填充"
            "第一个为 0 的层。",
        ),
    ),
    "blocks": AxisWords(
        Text("blocks", "层"),
        Text(
            "Which blocks get the value of the values axis (or the single value): IN04; "
            "IN04-IN08 M00; NOT OUT03-OUT05. All others keep the weights of the start.",
            "哪些层取数值轴的值（或单个数值）：IN04；IN04-IN08 M00；NOT OUT03-OUT05。其余层保持起始"
            "权重。",
        ),
    ),
    "values": AxisWords(
        Text("values", "数值"),
        Text(
            "Numbers for the blocks of the blocks axis; without one, for the X in the weights.",
            "层轴所选层的数值；没有层轴时，用于权重中的 X。",
        ),
    ),
    "seed": AxisWords(
        Text("seed", "随机种子"),
        Text("Whole numbers, or a range: 1; 7-10.", "整数或范围：1；7-10。"),
    ),
    "weight": AxisWords(
        Text("strength", "强度"),
        Text(
            "Strength of the whole network: text encoder and U-Net alike.",
            "整个网络的强度：文本编码器和 U-Net 相同。",
        ),
    ),
    "unet": AxisWords(
        Text("U-Net strength", "U-Net 强度"),
        Text("Strength of the U-Net's blocks alone.", "仅 U-Net 各层的强度。"),
    ),
    "text_encoder": AxisWords(
        Text("text encoder strength", "文本编码器强度"),
        Text("Strength of the text encoder (BASE) alone.", "仅文本编码器（BASE）的强度。"),
    ),
    "network": AxisWords(
        Text("network", "网络"),
        Text(
            "Network files, such as the epochs of a training; an empty entry is the network that "
            "is in memory.",
            "网络文件，例如一次训练的各轮；空条目表示内存中的网络。",
        ),
    ),
    "prompt": AxisWords(Text("prompt", "提示词"), Text("One prompt an entry.", "每条一个提示词。")),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid: what it changes, and the entries as users write them."""

    kind: AxisKind = "none"
    entries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(AxisKind):
            raise ConfigError(
                f"a grid has no axis {self.kind!r}; it may be one of {', '.join(AXES)}"
            )
        if self.kind != "none" and not self.entries:
            raise ConfigError(f"the axis {self.kind!r} has no entries; {AXES[self.kind].help.en}")

    @classmethod
    def of(cls, kind: AxisKind, text: str) -> Axis:
        """Read a text field: prompts and files by lines, weights by lines or "|", else by ","."""
        if kind == "none":
            return cls()
        splits = {"prompt": r"\n", "network": r"\n", "weights": r"[|\n]"}
        parts = [part.strip() for part in re.split(splits.get(kind, r"[,，\n]"), text)]
        return cls(kind, tuple(part for part in parts if part))


@dataclass(frozen=True, slots=True, kw_only=True)
class XYZRequest:
    """A grid over any axes: x goes across, y down, z from page to page.

    weights, unet, text_encoder, prompt and the settings' seed hold where no axis changes them.
    presets: the user's own, name -> text, for these weights and those of axes. value: what the
    blocks of a blocks axis get where there is no values axis. compare: also draw the base model's
    picture for each prompt and seed, and show how far each cell is from it. network_name: for the
    title and the file's metadata.
    """

    x: Axis = Axis()
    y: Axis = Axis()
    z: Axis = Axis()
    prompt: Prompt = field(default_factory=lambda: Prompt(""))
    weights: str | BlockWeights = "ALL"
    presets: Mapping[str, str] = field(default_factory=dict)
    value: float = 0.0
    unet: float = 1.0
    text_encoder: float = 1.0
    settings: DrawSettings = field(default_factory=DrawSettings)
    network_name: str = ""
    compare: bool = True
    language: Language = "en"

    def __post_init__(self) -> None:
        kinds = [axis.kind for axis in self.axes if axis.kind != "none"]
        for kind in kinds:
            if kinds.count(kind) > 1 and kind != "weights":
                raise ConfigError(f"two axes of a grid are {kind!r}; change one of them")
        texts = [axis.entries for axis in self.axes if axis.kind == "weights"] or [(self.weights,)]
        written = [self._spelt_out(text) for entries in texts for text in entries]
        if "values" in kinds and "blocks" not in kinds and "X" not in "".join(written):
            raise ConfigError(
                "an axis of values needs an axis of blocks that get them, or weights with an X in "
                "the place of the value, as in OUT03-OUT05=X"
            )

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The axes x, y and z."""
        return self.x, self.y, self.z

    def with_prompts(self, prompts: Sequence[Prompt]) -> XYZRequest:
        """Give the grid of several prompts: on a free axis, where they are not an axis already.

        Rows are taken first, then columns, then pages. All have the first one's negative prompt.
        ConfigError where no axis is free.
        """
        one = replace(self, prompt=prompts[0])
        taken = {name: getattr(self, name).kind for name in "yxz"}
        if len(prompts) == 1 or "prompt" in taken.values():
            return one
        free = next((name for name, kind in taken.items() if kind == "none"), None)
        if free is None:
            raise ConfigError(
                f"the grid has {len(prompts)} prompts, and all three axes are taken; give one "
                "prompt, or set an axis to none"
            )
        return replace(one, **{free: Axis("prompt", tuple(prompt.text for prompt in prompts))})

    def _spelt_out(self, text: str | BlockWeights) -> str:
        """Give weights as they are written, a preset of the user's as what it stands for."""
        if isinstance(text, BlockWeights):
            return ""
        name, *rules = re.split("[;；]", text, maxsplit=1)
        return ";".join((self.presets.get(name.strip(), name), *rules))

    def table(self, family: str) -> Table:
        """Work out every cell, for a family of models. ConfigError names a wrong entry."""
        across, down, through = (_expanded(axis) for axis in self.axes)
        count = len(across) * len(down) * len(through)
        if count > MOST_CELLS:
            raise ConfigError(
                f"the grid has {len(across)} x {len(down)} x {len(through)} = {count} cells; it "
                f"may have {MOST_CELLS}. Take entries out"
            )
        start = _Draft(
            prompt=self.prompt,
            seed=self.settings.seed,
            start=self.weights,
            presets=self.presets,
            value=f"{self.value:g}",
            unet=self.unet,
            text_encoder=self.text_encoder,
        )
        cells = {
            (z, y, x): self._draft(start, (through[z], down[y], across[x])).cell(family)
            for z, y, x in product(range(len(through)), range(len(down)), range(len(across)))
        }
        return Table(
            columns=self._labels(self.x, across, family),
            rows=self._labels(self.y, down, family),
            pages=self._labels(self.z, through, family),
            cells=tuple(
                tuple(tuple(cells[z, y, x] for x in range(len(across))) for y in range(len(down)))
                for z in range(len(through))
            ),
            settings=self.settings,
            network_name=self.network_name,
            compare="base" if self.compare else "",
            language=self.language,
        )

    def _labels(self, axis: Axis, entries: tuple[str, ...], family: str) -> tuple[Label, ...]:
        """Say what each entry is."""
        if axis.kind == "none":
            return (Label("", ""),)
        title = getattr(AXES[axis.kind].label, self.language)
        return tuple(Label(self._title(axis.kind, entry, family), title) for entry in entries)

    def _title(self, kind: AxisKind, entry: str, family: str) -> str:
        if kind == "network":
            return re.split(r"[/\\]", entry)[-1].removesuffix(".safetensors")
        if kind == "weights":
            weights = BlockWeights.parse(entry, family, seed=0, presets=self.presets)
            return entry if weights.label == weights.text() else weights.label
        return entry

    def _draft(self, start: _Draft, entries: tuple[str, str, str]) -> _Draft:
        draft = start
        for axis, entry in zip((self.z, self.y, self.x), entries, strict=True):
            draft = draft.changed(axis.kind, entry)
        return draft


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A cell before its block weights are read. x: for the X in them."""

    prompt: Prompt
    seed: int
    start: str | BlockWeights
    presets: Mapping[str, str]
    weights: tuple[str, ...] = ()
    blocks: str = ""
    value: str
    x: str = "1"
    unet: float
    text_encoder: float
    network: str = ""

    def changed(self, kind: AxisKind, entry: str) -> _Draft:
        """Give the draft with one axis' entry applied."""
        if kind == "none":
            return self
        if kind == "weights":
            return replace(self, weights=(entry, *self.weights))
        if kind == "prompt":
            return replace(self, prompt=replace(self.prompt, text=entry))
        if kind == "seed":
            return replace(self, seed=_whole(entry))
        if kind == "weight":
            strength = _number(kind, entry)
            return replace(self, unet=strength, text_encoder=strength)
        if kind == "unet":
            return replace(self, unet=_number(kind, entry))
        if kind == "text_encoder":
            return replace(self, text_encoder=_number(kind, entry))
        if kind == "values":
            return replace(self, value=entry, x=entry)
        return replace(self, **{kind: entry})

    def cell(self, family: str) -> Cell:
        """Read the weights."""
        return Cell(
            prompt=self.prompt,
            seed=self.seed,
            weights=self._weights(family),
            unet=self.unet,
            text_encoder=self.text_encoder,
            network=self.network,
        )

    def _weights(self, family: str) -> BlockWeights:
        x = 1.0 if self.blocks else _number("values", self.x)
        first, *others = (
            BlockWeights.parse(given, family, x=x, seed=self.seed, presets=self.presets)
            for given in (self.weights or (self.start,))
        )
        ratios, label = dict(first.ratios), first.label
        for other in others:
            added = {block: ratio for block, ratio in other.ratios if not ratios.get(block)}
            ratios, label = ratios | added, f"{label} + {other.label}"
        if self.blocks:
            ratios |= chosen(self.blocks, self.value, family, self.seed)
            label = f"{label}, {self.blocks}={self.value}"
        if not others and not self.blocks:
            return first
        elements = tuple(rule for given in (first, *others) for rule in given.elements)
        return BlockWeights(tuple(ratios.items()), label, elements)


def chosen(blocks: str, value: str, family: str, seed: int | None = None) -> dict[str, float]:
    """Read blocks as users write them ("IN04-IN08 M00", "NOT OUT03"), and a value for them."""
    if "," in blocks or "=" in blocks or not blocks.strip():
        raise ConfigError(
            f"a blocks axis has the entry {blocks!r}; write blocks and ranges with blanks between "
            "them, as in IN04-IN08 M00, or NOT before them"
        )
    selected = BlockWeights.parse(f"{blocks}=1", family)
    values = BlockWeights.parse(f"{blocks}={value}", family, seed=seed)
    return {block: values.ratio(block) for block, on in selected.ratios if on}


def _expanded(axis: Axis) -> tuple[str, ...]:
    """Give an axis' entries with ranges of seeds written out; one empty entry for no axis."""
    if axis.kind == "none":
        return ("",)
    if axis.kind != "seed":
        return tuple(entry.strip() for entry in axis.entries)
    return tuple(seed for entry in axis.entries for seed in _seeds(entry.strip()))


def _seeds(entry: str) -> Iterator[str]:
    found = _RANGE.fullmatch(entry)
    if not found:
        yield str(_whole(entry))
        return
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MOST_SEEDS:
        raise ConfigError(
            f"a seed axis has the range {entry!r}; it must go up, over at most {_MOST_SEEDS} seeds"
        )
    yield from (str(_whole(str(seed))) for seed in range(first, last + 1))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(kind: str, entry: str) -> float:
    if not _is_number(entry) or not abs(float(entry)) <= 1000:  # NaN is no number either
        raise ConfigError(f"an axis {kind!r} has the entry {entry!r}; it must be a number")
    return float(entry)


def _whole(entry: str) -> int:
    if not re.fullmatch(r"\d{1,20}", entry) or int(entry) >= 2**64:
        raise ConfigError(
            f"a seed axis has the entry {entry!r}; it must be a whole number of 0 or more, or a "
            "range as in 1-4"
        )
    return int(entry)
