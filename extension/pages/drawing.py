"""How pictures are drawn on the Blocks page: the recipe's preview settings as widgets."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.config import PreviewConfig, from_mapping
from ...core.errors import ConfigError
from ..fields import Field, all_fields
from ..widgets import hidden_data, host_choices, widget
from .common import Context


class DrawingForm:
    """The widgets, wherever on the page they stand, and the settings that they show."""

    def __init__(self, context: Context) -> None:
        self._desk, self._say = context.desk, context.say
        self._fields = {f.setting.name: f for f in all_fields() if f.section == "preview"}
        self._choices = host_choices(context.desk.host)
        self._widgets: dict[str, Any] = {}

    def offered(self, names: Sequence[str]) -> list[str]:
        """Those of the settings that the host has a choice for, if they are its to offer."""
        return [name for name in names if self._choices.get(self._fields[name].name) != []]

    def add(self, name: str, **options: Any) -> None:
        """Make the widget of a setting here, with what was used last."""
        field = self._fields[name]
        if choices := self._choices.get(field.name):
            options["choices"] = choices
        shown = self._desk.first_recipe().preview
        value = field.to_widget(getattr(shown, name), self._say)
        options = {"elem_id": _element(field), "value": value, **options}
        self._widgets[name] = widget(field, self._say, **options)

    @property
    def widgets(self) -> list[Any]:
        """The widgets, as inputs of a handler."""
        return list(self._widgets.values())

    def __getitem__(self, name: str) -> Any:
        """The widget of a setting."""
        return self._widgets[name]

    def read(self, shown: Sequence[Any]) -> PreviewConfig:
        """The drawing settings. Raises ConfigError, also where there is nothing to draw."""
        values = {
            name: self._fields[name].from_widget(content, self._say)
            for name, content in zip(self._widgets, shown, strict=True)
        }
        preview = from_mapping(PreviewConfig, values, "preview")
        if not preview.prompts:
            raise ConfigError("preview.prompts is empty: write what is to be drawn")
        return preview

    def help(self, others: Mapping[str, str]) -> str:
        """Every widget's help for the page's script; `others`, by element: of the page's others."""
        texts = {_element(self._fields[n]): self._fields[n].help(self._say) for n in self._widgets}
        return hidden_data("lora_loop_help_blocks", {**texts, **others})


def seed_of(shown: str) -> int:
    """The seed that its widget shows; where that is none, the first one's, as drawing says why."""
    return int(shown) if str(shown).isdecimal() else PreviewConfig().seed


def _element(field: Field) -> str:
    return f"lora_loop_draw_{field.setting.name}"
