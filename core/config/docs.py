"""The settings reference, as Markdown, made from the fields themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from .caption import caption_sections
from .fields import Setting, Text, describe
from .recipe import sections

Language = Literal["en", "zh"]

FILES: dict[Language, str] = {"en": "settings.md", "zh": "settings.zh-CN.md"}

_TITLE = Text("Settings", "设置参考")
_INTRO = Text(
    "A recipe is a JSON file with these groups. What it leaves out takes the default; only "
    "`dataset.folder` has none. Unknown names and values out of range are errors. Relative paths "
    "are taken from the recipe's own folder.",
    "配方是由以下各组设置构成的 JSON 文件。未写出的设置取默认值，只有 `dataset.folder` 没有默认值。"
    "未知的名称和超出范围的数值都会报错。相对路径以配方文件所在的文件夹为准。",
)
_CAPTIONING = Text("Settings of captioning", "标注设置")
_CAPTIONING_INTRO = Text(
    "`lora-loop caption` takes each of these as an option (`--general-threshold 0.4`), or all in "
    "a JSON file with `--config`: the settings of `caption` at its top, the other groups inside.",
    "`lora-loop caption` 可用选项逐个指定（`--general-threshold 0.4`），或用 `--config` 指定 JSON "
    "文件：`caption` 组的设置写在顶层，其余各组写在其中。",
)
_HEADER = Text(
    "| Setting | Default | Values | What it does |",
    "| 设置 | 默认值 | 取值 | 作用 |",
)
_KINDS = {
    "int": Text("whole number", "整数"),
    "float": Text("number", "数值"),
    "bool": Text("`true` or `false`", "`true` 或 `false`"),
    "str": Text("text", "文本"),
    "texts": Text("list of texts", "文本列表"),
}
_REQUIRED = Text("required", "必填")
_MULTIPLE = Text("a multiple of {}", "{} 的倍数")
_FROM = Text("{} or more", "不小于 {}")
_COMMA = Text(", ", "，")


def settings_markdown(language: Language) -> str:
    """Return the reference of all settings, one table a section, in "en" or "zh"."""
    return "\n".join(_lines(language))


def _lines(language: Language) -> Iterator[str]:
    yield f"# {_in(_TITLE, language)}"
    yield ""
    yield _in(_INTRO, language)
    yield from _tables(sections(), language)
    yield ""
    yield f"# {_in(_CAPTIONING, language)}"
    yield ""
    yield _in(_CAPTIONING_INTRO, language)
    yield from _tables(caption_sections(), language)
    yield ""


def _tables(groups: dict[str, type], language: Language) -> Iterator[str]:
    for name, section in groups.items():
        title: Text = section.TITLE  # pyright: ignore[reportAttributeAccessIssue]
        yield ""
        yield f"## {_in(title, language)} (`{name}`)"
        yield ""
        yield _in(_HEADER, language)
        yield "|---|---|---|---|"
        for item in describe(section):
            yield _row(item, language)


def _row(item: Setting, language: Language) -> str:
    default = _in(_REQUIRED, language) if item.required else f"`{_json(item.default)}`"
    words = f"**{_in(item.label, language)}**<br>{_in(item.help, language)}"
    cells = (f"`{item.name}`", default, _values(item, language), words)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(item: Setting, language: Language) -> str:
    if item.type == "choice":
        return "<br>".join(
            f"`{_json(value)}`: {_in(label, language)}" for value, label in item.choices.items()
        )
    parts = [_in(_KINDS[item.type], language)]
    if item.low is not None and item.high is not None:
        parts.append(f"{_number(item.low)} – {_number(item.high)}")
    elif item.low is not None:
        parts.append(_in(_FROM, language).format(_number(item.low)))
    if item.unit is not None:
        parts.append(_in(item.unit, language))
    if item.multiple is not None:
        parts.append(_in(_MULTIPLE, language).format(item.multiple))
    if item.zero is not None:
        parts.append(f"`0` = {_in(item.zero, language)}")
    return _in(_COMMA, language).join(parts)


def _in(text: Text, language: Language) -> str:
    return text.zh if language == "zh" else text.en


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_settings(folder: Path) -> None:
    """Write the reference in every language into `folder`, the repository's docs."""
    for language, name in FILES.items():
        (folder / name).write_text(settings_markdown(language), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_settings(Path(__file__).parents[2] / "docs")
