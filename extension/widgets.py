"""Widgets made from a recipe's fields, and the forms that hold them."""

import html
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..core.config import Recipe
from .fields import Field, all_fields, from_widgets, to_widgets
from .gradio_versions import UNCHANGED, make
from .hosts.protocol import Host
from .words import Words

_LINES = {"preview.prompts": 3, "preview.presets": 3}


def widget(field: Field, say: Words, **options: Any) -> Any:
    """The widget of a setting. options: what it shows, and what differs from the usual."""
    common = {
        "label": field.label(say),
        "elem_id": field.element,
        "interactive": True,
        **options,
    }
    kind = field.setting.type
    if "choices" in options:
        return make(gr.Dropdown, **{"allow_custom_value": True, **common})
    if kind == "choice":
        choices = [say.text(text) for text in field.setting.choices.values()]
        return make(gr.Dropdown, **{"choices": choices, **common})
    if kind == "bool":
        return make(gr.Checkbox, **common)
    if kind in ("int", "float") and not field.is_text:
        return make(gr.Number, **common)
    lines = _LINES.get(field.name, 1)
    return make(gr.Textbox, **{"lines": lines, "max_lines": 8 if lines > 1 else 1, **common})


def host_choices(host: Host) -> dict[str, list[str]]:
    """The settings, by name, whose values the host knows; none are to be had where it is empty."""
    return {
        "base.checkpoint": list(host.checkpoints()),
        "preview.host_sampler": ["", *host.samplers()] if host.samplers() else [],
        "preview.host_scheduler": ["", *host.schedulers()] if host.schedulers() else [],
    }


class Form:
    """The widgets of a recipe, wherever on the pages they stand."""

    def __init__(self, recipe: Recipe, say: Words, host: Host) -> None:
        self._say = say
        self._recipe = recipe
        self._choices = host_choices(host)
        left_out = [name for name, choices in self._choices.items() if not choices]
        self._all = {field.name: field for field in all_fields() if field.name not in left_out}
        self._widgets: dict[str, Any] = {}

    def add(self, name: str, **options: Any) -> Any:
        """Make the widget of the setting `name` here."""
        field = self._all[name]
        shown = {"value": to_widgets(self._recipe, [field], self._say)[0], **options}
        if name in self._choices:
            shown["choices"] = self._choices[name]
        self._widgets[name] = widget(field, self._say, **shown)
        return self._widgets[name]

    def missing(self) -> dict[str, list[str]]:
        """The settings without a widget yet, by section."""
        found: dict[str, list[str]] = {}
        for name, field in self._all.items():
            if name not in self._widgets:
                found.setdefault(field.section, []).append(name)
        return found

    @property
    def fields(self) -> list[Field]:
        """The settings that have widgets, in the order of `widgets`."""
        return [self._all[name] for name in self._widgets]

    @property
    def widgets(self) -> list[Any]:
        """The widgets, as inputs or outputs of a handler."""
        return list(self._widgets.values())

    def __getitem__(self, name: str) -> Any:
        """The widget of a setting."""
        return self._widgets[name]

    def read(self, shown: Sequence[Any], fixed: dict[str, Any]) -> Recipe:
        """The recipe that the widgets show. Raises ConfigError."""
        return from_widgets(shown, self.fields, self._say, fixed)

    def show(self, recipe: Recipe) -> list[Any]:
        """What the widgets are to show for a recipe."""
        return to_widgets(recipe, self.fields, self._say)

    def changes(self, recipe: Recipe, shown: Sequence[Any]) -> list[Any]:
        """The same, but nothing for widgets that show it already: somebody may be typing."""
        wanted = zip(self.show(recipe), shown, strict=True)
        return [UNCHANGED if new == old else new for new, old in wanted]

    def help(self) -> str:
        """Every widget's help for the page's script, which shows it where the user points."""
        texts = {field.element: field.help(self._say) for field in self.fields}
        return hidden_data("lora_loop_help", texts)


def hidden_data(name: str, data: Any) -> str:
    """Facts for the page's script, as an element that is not shown."""
    text = html.escape(json.dumps(data, ensure_ascii=False), quote=True)
    return f'<div id="{name}" class="lora-loop-data" data-json="{text}"></div>'
