"""Files made from the nodes: ComfyUI's words in both languages, and the help page of each node.

python -m lora_loop.comfy_nodes.locales        writes them into the repository
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..core.config import Setting, describe, sections
from ..core.config.caption import caption_sections
from . import table, words
from .inputs import widget_name
from .option_nodes import OptionsNode

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
_HEADS = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出")}


def files() -> Iterator[tuple[str, str]]:
    """Every file by its path below the repository's root, and its text."""
    for language in LANGUAGES:
        text = json.dumps(node_definitions(language), ensure_ascii=False, indent=2)
        yield f"locales/{language}/nodeDefs.json", text + "\n"
        for name in table.node_classes():
            yield f"comfy_nodes/web/docs/{name}/{language}.md", help_page(name, language)
    for name in table.node_classes():
        yield f"comfy_nodes/web/docs/{name}.md", help_page(name, "en")


def node_definitions(language: Language) -> dict[str, Any]:
    """ComfyUI's nodeDefs.json: names, descriptions, inputs and outputs of all nodes."""
    return {
        name: {
            "display_name": title(name, language),
            "description": description(node, language),
            "inputs": {
                key: {"name": label, "tooltip": hint}
                for key, label, hint in inputs_of(node, language)
            },
            "outputs": {
                str(place): {"name": output}
                for place, output in enumerate(outputs_of(node, language))
            },
        }
        for name, node in table.node_classes().items()
    }


def title(name: str, language: Language) -> str:
    """A node's name."""
    return f"{getattr(table.titles()[name], language)} (LoRA Loop)"


def description(node: Any, language: Language) -> str:
    """What a node is for."""
    if language == "en":
        return node.DESCRIPTION
    own = "OptionsNode" if issubclass(node, OptionsNode) else node.__name__
    return words.DESCRIPTIONS[own]


def inputs_of(node: Any, language: Language) -> Iterator[tuple[str, str, str]]:
    """(key, label, help) of each link and widget."""
    settings = _settings()
    declared = node.INPUT_TYPES()
    for key, spec in {**declared["required"], **declared.get("optional", {})}.items():
        tooltip = spec[1].get("tooltip", "")
        setting = settings.get((key, tooltip))
        if setting is not None:
            yield key, getattr(setting.label, language), getattr(setting.help, language)
        elif language == "en":
            yield key, words.LABELS[key].en, tooltip
        else:
            yield key, words.LABELS[key].zh, words.HELP[key]


def outputs_of(node: Any, language: Language) -> list[str]:
    """The names of what comes out."""
    names = list(node.RETURN_NAMES)
    return names if language == "en" else [words.OUTPUTS[name] for name in names]


def help_page(name: str, language: Language) -> str:
    """A node's page in ComfyUI's help panel, as Markdown."""
    node = table.node_classes()[name]
    inputs, outputs = _HEADS[language]
    lines = [f"# {title(name, language)}", "", description(node, language), "", f"## {inputs}", ""]
    lines += [f"- **{label}** (`{key}`): {hint}" for key, label, hint in inputs_of(node, language)]
    names = [*zip(outputs_of(node, language), node.RETURN_TYPES, strict=True)]
    lines += ["", f"## {outputs}", "", *(f"- **{own}** (`{kind}`)" for own, kind in names)]
    return "\n".join(lines) + "\n"


def _settings() -> dict[tuple[str, str], Setting]:
    """Every setting by its widget's name and English help, which together are its own."""
    known = {**sections(), **caption_sections()}
    return {
        (widget_name(section, item.name), item.help.en): item
        for section, own in known.items()
        for item in describe(own)
    }


def write(root: Path) -> None:
    """Write all files below `root`."""
    for name, text in files():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    from . import door, still_host

    door.use(still_host.StillHost())
    write(Path(__file__).parents[1])
