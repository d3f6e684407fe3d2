"""LoadRecipe, SaveRecipe and ResumeTraining: whole recipes in and out of the graph."""

from __future__ import annotations

from typing import Any

from ..core.config import Recipe, to_mapping
from ..core.config.output import check_name
from ..core.errors import FileError
from ..core.session import graphwork, has_state
from . import door
from .dataset_nodes import CATEGORY
from .places import dataset_folder, own_folder, recipe_path
from .protocol import Host
from .train_node import recipe_of
from .values import DATASET, OPTIONS, Dataset, Options

_CATEGORY = f"{CATEGORY}/recipe"


class LoadRecipe:
    """A recipe file as options and dataset."""

    RETURN_TYPES = (OPTIONS, DATASET)
    RETURN_NAMES = ("options", "dataset")
    FUNCTION = "load"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Opens a recipe (.json). All of its settings go out as options, which count more than "
        "TrainLoRA's own widgets; its pictures as dataset."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        return {
            "required": {
                "recipe": (
                    "STRING",
                    {
                        "default": "recipe.json",
                        "tooltip": "Below output/lora_loop/recipes, or ComfyUI's input folder.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, recipe: str) -> str:  # noqa: N802 - ComfyUI's name
        """Changes when the file does."""
        state = recipe_path(door.host(), recipe).stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def load(self, recipe: str) -> tuple[Options, Dataset]:
        """Open the file. Raises FileError and ConfigError."""
        host = door.host()
        return parts_of(host, Recipe.load(recipe_path(host, recipe)))


class SaveRecipe:
    """Writes what TrainLoRA would train as a recipe file."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    FUNCTION = "save"
    CATEGORY = _CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = "Writes dataset and options as a recipe (.json) for the command line or the tab."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        return {
            "required": {
                "dataset": (DATASET, {"tooltip": "From LoadDataset or CaptionDataset."}),
                "name": ("STRING", {"default": "recipe", "tooltip": "Without folders and .json."}),
            },
            "optional": {"options": (OPTIONS, {"tooltip": "From the options nodes."})},
        }

    def save(self, dataset: Dataset, name: str, options: Options | None = None) -> dict[str, Any]:
        """Write the file under the first free name. Raises ConfigError and FileError."""
        check_name("name", name)
        host = door.host()
        recipe = recipe_of(host, dataset, options or Options(), {})
        folder = own_folder(host) / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        path = graphwork.free_path(folder / f"{name}.json")
        recipe.save(path)
        return {"ui": {"text": [str(path)]}, "result": (str(path),)}


class ResumeTraining:
    """An interrupted training, to be gone on with exactly as it was."""

    RETURN_TYPES = (OPTIONS, DATASET)
    RETURN_NAMES = ("options", "dataset")
    FUNCTION = "resume"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Lists interrupted trainings; connect both outputs to TrainLoRA, with the same model, to "
        "go on where one stopped."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        names = interrupted(door.host())
        return {
            "required": {
                "training": (names or [""], {"tooltip": "Press R to refresh the list."}),
            },
        }

    def resume(self, training: str) -> tuple[Options, Dataset]:
        """Open the training's recipe. Raises FileError where it is gone."""
        host = door.host()
        if training not in interrupted(host):
            raise FileError(
                f"there is no interrupted training {training!r} in {own_folder(host)}; choose one "
                "of the list, or connect LoadDataset to train anew"
            )
        options, dataset = parts_of(host, Recipe.load(own_folder(host) / f"{training}.json"))
        return Options(options.values, start="resume"), dataset


def parts_of(host: Host, recipe: Recipe) -> tuple[Options, Dataset]:
    """A recipe's settings, and its pictures, which must lie where datasets may."""
    dataset_folder(host, recipe.dataset.folder)
    values = to_mapping(recipe)
    for section in ("base", "dataset"):
        del values[section]
    del values["schema"]
    name = values["output"]["name"]
    values["output"]["name"] = unkeyed(name)
    return Options(values), Dataset(recipe.dataset, recipe.output.trigger)


def unkeyed(name: str) -> str:
    """A training's name without the digits that TrainLoRA adds."""
    stem, dash, key = name.rpartition("-")
    digits = len(key) == 8 and all(letter in "0123456789abcdef" for letter in key)
    return stem if dash and digits else name


def interrupted(host: Host) -> list[str]:
    """Names of the trainings of which a resume state and the recipe are there."""
    folder = own_folder(host)
    if not folder.is_dir():
        return []
    return [
        path.stem
        for path in sorted(folder.glob("*.json"))
        if has_state(path.with_suffix(".safetensors"))
    ]
