"""A recipe's settings between their own values and what widgets hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.config import Recipe, Setting, describe, from_mapping, sections, to_mapping
from ..core.errors import ConfigError
from .words import Words

NO_FOLDER = "?"  # stands for the folder that nobody has chosen yet
_EXACT_IN_BROWSERS = 2**53  # larger whole numbers lose digits there


@dataclass(frozen=True, slots=True)
class Field:
    """One setting of one section."""

    section: str
    setting: Setting

    @property
    def name(self) -> str:
        """As users write it: "network.rank"."""
        return f"{self.section}.{self.setting.name}"

    @property
    def element(self) -> str:
        """Its widget's id in the page."""
        return f"lora_loop_{self.section}_{self.setting.name}"

    @property
    def is_text(self) -> bool:
        """Whether its widget is a line of text, though it is a number that browsers round."""
        setting = self.setting
        return setting.type == "int" and (setting.high or 0) > _EXACT_IN_BROWSERS

    def label(self, say: Words) -> str:
        """Its label with the unit, and what 0 means."""
        setting = self.setting
        label = say.text(setting.label)
        facts = [say.text(setting.unit)] if setting.unit else []
        if facts and facts[0] in label.lower():
            facts = []
        if setting.zero:
            facts.append(f"0 = {say.text(setting.zero)}")
        more = f" ({', '.join(facts)})" if facts else ""
        return label + more

    def help(self, say: Words) -> str:
        """What it does, when to change it and what goes wrong, with its default and range."""
        setting = self.setting
        facts = [f"{self.name}"]
        if setting.default not in (None, "", ()) and setting.type not in ("texts", "choice"):
            facts.append(say("default ", "默认 ") + str(setting.default))
        if setting.low is not None and setting.high is not None:
            facts.append(f"{setting.low:g} – {setting.high:.15g}")
        return f"{say.text(setting.help)}\n{' · '.join(facts)}"

    def to_widget(self, value: Any, say: Words) -> Any:
        """What the widget shows for a value."""
        if self.setting.type == "choice":
            return say.text(self.setting.choices[value])
        if self.setting.type == "texts":
            return "\n".join(value)
        return str(value) if self.is_text else value

    def from_widget(self, shown: Any, say: Words) -> Any:
        """The value that a widget's content stands for; what is wrong with it shows the recipe."""
        kind = self.setting.type
        if kind == "choice":
            keys = {say.text(text): key for key, text in self.setting.choices.items()}
            return keys.get(shown, shown)
        if kind == "texts":
            return tuple(line.strip() for line in (shown or "").splitlines() if line.strip())
        if kind == "str":
            return (shown or "").strip()
        return self._number(shown) if kind in ("int", "float") else bool(shown)

    def _number(self, shown: Any) -> Any:
        if isinstance(shown, str):
            try:
                shown = int(shown) if self.setting.type == "int" else float(shown)
            except ValueError:
                return shown
        whole = self.setting.type == "int" and isinstance(shown, float) and shown.is_integer()
        return int(shown) if whole else shown


def all_fields() -> tuple[Field, ...]:
    """Every setting of a recipe, in its order."""
    return tuple(
        Field(section, setting) for section, cls in sections().items() for setting in describe(cls)
    )


def to_widgets(recipe: Recipe, fields: Sequence[Field], say: Words) -> list[Any]:
    """What the widgets of these fields show for a recipe."""
    mapping = to_mapping(recipe)
    if recipe.dataset.folder == NO_FOLDER:
        mapping["dataset"]["folder"] = ""
    return [field.to_widget(mapping[field.section][field.setting.name], say) for field in fields]


def from_widgets(
    shown: Sequence[Any],
    fields: Sequence[Field],
    say: Words,
    fixed: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe that the widgets show. Raises ConfigError for what is not one.

    fixed: settings by name ("base.checkpoint") that are not the user's to choose.
    """
    mapping: dict[str, dict[str, Any]] = {}
    for field, content in zip(fields, shown, strict=True):
        value = field.from_widget(content, say)
        mapping.setdefault(field.section, {})[field.setting.name] = value
    for name, value in (fixed or {}).items():
        section, _, setting = name.partition(".")
        mapping.setdefault(section, {})[setting] = value
    if not mapping.get("dataset", {}).get("folder"):
        raise ConfigError(
            say(
                "dataset.folder is empty: choose the folder of your pictures on the Dataset page",
                "dataset.folder 为空：请先在“数据集”页选择图片文件夹",
            )
        )
    return from_mapping(Recipe, mapping)
