"""The recipe: all settings of one training, checked, and saved as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

from ..errors import ConfigError, FileError
from .base import EMBEDDED, BaseConfig
from .dataset import DatasetConfig
from .fields import Limits, Text, check_fields, setting, shown
from .mapping import from_mapping, parse_json, read_settings, to_mapping
from .memory import MemoryConfig
from .network import NetworkConfig
from .objective import ObjectiveConfig
from .optimizer import LrScheduleConfig, OptimizerConfig
from .output import OutputConfig
from .preview import PreviewConfig
from .training import TrainingConfig

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of one training. Equal recipes on equal data train equal networks."""

    schema: int = setting(
        SCHEMA,
        Text("Schema", "格式版本"),
        Text(
            "Version of the recipe's format, written by the program. Leave it as it is: it lets a "
            "later version read old recipes, and an older one refuse what it does not know.",
            "配方格式的版本号，由程序写入，请勿修改：新版本靠它读取旧配方，旧版本靠它拒绝不认识的"
            "内容。",
        ),
        Limits(1, SCHEMA),
    )
    base: BaseConfig = field(default_factory=BaseConfig)
    dataset: DatasetConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, section in sections().items():
            if not isinstance(getattr(self, name), section):
                raise ConfigError(
                    f"recipe.{name} is {shown(getattr(self, name))}; it must be a "
                    f"{section.__name__}"
                )
        _check_agreement(self)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe from JSON text; paths stay as written. Raises ConfigError."""
        mapping = parse_json(text, "the recipe")
        schema = mapping.get("schema", SCHEMA) if isinstance(mapping, Mapping) else SCHEMA
        if isinstance(schema, int) and schema > SCHEMA:
            raise ConfigError(
                f"recipe.schema is {shown(schema)}, from a newer LoRA Loop; this one reads up to "
                f"{SCHEMA}: update LoRA Loop, or use the version that wrote the recipe"
            )
        return from_mapping(cls, mapping)

    def to_json(self) -> str:
        """Return the recipe as JSON text with every setting written out."""
        return json.dumps(to_mapping(self), ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe file; relative paths in it are taken relative to the file's folder.

        Raises FileError where it cannot be read, ConfigError that names the file where its
        content is wrong.
        """
        path = Path(path)
        text = read_settings(path, "recipe")
        try:
            return _anchored(cls.from_json(text), path.resolve().parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the recipe as a JSON file, whole or not at all; paths are written as they are."""
        path = Path(path)
        draft = path.with_name(f"{path.name}.tmp")
        try:
            draft.write_text(self.to_json(), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise FileError(f"The recipe {path} cannot be written: {error}") from error


def sections() -> dict[str, type]:
    """The recipe's sections by name, in their order."""
    hints = get_type_hints(Recipe)
    return {
        item.name: hints[item.name] for item in fields(Recipe) if is_dataclass(hints[item.name])
    }


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    base, dataset, output = recipe.base, recipe.dataset, recipe.output
    if base.checkpoint != EMBEDDED:
        base = replace(base, checkpoint=_anchor(base.checkpoint, folder))
    if base.vae:
        base = replace(base, vae=_anchor(base.vae, folder))
    return replace(
        recipe,
        base=base,
        dataset=replace(dataset, folder=_anchor(dataset.folder, folder)),
        output=replace(output, folder=_anchor(output.folder, folder)),
    )


def _anchor(path: str, folder: Path) -> str:
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"the path {shown(path)} cannot be resolved: {error}") from error


def _check_agreement(recipe: Recipe) -> None:
    network, optimizer = recipe.network, recipe.optimizer
    for part, on, lr in (
        ("unet", network.unet, optimizer.unet_lr),
        ("text_encoder", network.text_encoder, optimizer.text_encoder_lr),
    ):
        if on and lr == 0:
            raise ConfigError(
                f"optimizer.{part}_lr is 0 but network.{part} is true; a part that is trained "
                f"needs a learning rate above 0: set one, or set network.{part} to false"
            )
    if recipe.base.zero_terminal_snr == "yes" and recipe.objective.noise_offset:
        raise ConfigError(
            f"objective.noise_offset is {recipe.objective.noise_offset:g} but "
            'base.zero_terminal_snr is "yes"; both mend the brightness and together they spoil '
            "it: set noise_offset to 0"
        )
    if recipe.preview.every and not recipe.preview.prompts:
        raise ConfigError(
            f"preview.every is {recipe.preview.every} but preview.prompts is empty; add a prompt, "
            "or set preview.every to 0"
        )
