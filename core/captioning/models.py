"""Finding the captioner that the settings name: in a folder, in model folders, or by download."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..config.caption import CaptionConfig
from ..errors import CheckpointError
from .blip import BlipCaptioner, BlipFiles
from .download import USUAL, fetch
from .folders import existing_path, places
from .protocol import Captioner, CaptionerSource
from .wd14 import TaggerFiles, WD14Tagger, require_runtime

Files = BlipFiles | TaggerFiles
FINDERS: dict[str, Callable[[Path], Sequence[Files]]] = {
    "wd14": TaggerFiles.find,
    "blip": BlipFiles.find,
}
NEEDS = {
    "wd14": "selected_tags.csv with model.onnx, or with model.safetensors and config.json",
    "blip": "config.json, tokenizer.json and model.safetensors (or pytorch_model.bin)",
}


def make_captioner(config: CaptionConfig, source: CaptionerSource) -> Captioner | None:
    """The captioner of the settings; None for rules alone. Raises CheckpointError."""
    if config.captioner == "none":
        return None
    files = _chosen(config, source)
    if isinstance(files, TaggerFiles):
        return WD14Tagger(files, config.tagger, source)
    return BlipCaptioner(files, config.blip, source)


def captioner_names(kind: str, folders: Sequence[Path]) -> list[str]:
    """Names of all models of a kind in these folders, each once."""
    return list(dict.fromkeys(name for name, _ in _installed(kind, folders)))


def _installed(kind: str, folders: Sequence[Path]) -> list[tuple[str, Files]]:
    """Models with the names to choose them by, in the order of the folders."""
    found: list[tuple[str, Files]] = []
    for folder in folders:
        for name, place in places(folder):
            for files in FINDERS[kind](place):
                single = files.name == place.name
                found.append((name if single else files.name, files))
    return found


def _chosen(config: CaptionConfig, source: CaptionerSource) -> Files:
    kind, wanted = config.captioner, config.model.strip()
    path = existing_path(wanted)
    if path is not None:
        return _given(kind, path)
    installed = _installed(kind, source.folders)
    name = wanted.rpartition("/")[2].casefold()
    for label, files in installed:
        if not wanted or label.casefold() == name:
            return files
    if config.download and source.folders:
        return _downloaded(kind, wanted or USUAL[kind], source.folders[0])
    looked = ", ".join(map(str, source.folders)) or "no folder was given to look in"
    there = ", ".join(label for label, _ in installed)
    raise CheckpointError(
        f"caption.model is {wanted!r}: "
        f"there is no such {kind} model (looked in: {looked}; found: {there or 'none'}). Put its "
        f"files there, each model in a folder of its own: {NEEDS[kind]}; or give the model's "
        "folder; or allow the download (caption.download)"
    )


def _given(kind: str, path: Path) -> Files:
    """The model at a path that the user has given: its folder, or a file in it."""
    found = FINDERS[kind](path if path.is_dir() else path.parent)
    for files in found:
        if path.is_dir() or path in (getattr(files, "onnx", None), getattr(files, "timm", None)):
            return files
    for files in found:
        return files
    raise CheckpointError(f"caption.model: {path} holds no {kind} model: it needs {NEEDS[kind]}")


def _downloaded(kind: str, repository: str, folder: Path) -> Files:
    if "/" not in repository:
        raise CheckpointError(
            f"caption.model is {repository!r}; to download it, give it as owner/name, such as "
            f"{USUAL[kind]}"
        )
    if kind == "wd14":
        require_runtime(repository)
    for patterns in download_plans(kind):
        found = FINDERS[kind](fetch(repository, patterns, folder))
        for files in found:
            return files
    raise CheckpointError(f"{repository} is no {kind} model: its page has not all of {NEEDS[kind]}")


def download_plans(kind: str) -> list[list[str]]:
    """What to fetch, in the order in which it is tried: the safe and usable format first."""
    if kind == "blip":
        facts = ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.txt"]
        return [[*facts, "model.safetensors"], [*facts, "pytorch_model.bin"]]
    onnx = ["selected_tags.csv", "model.onnx"]
    timm = ["selected_tags.csv", "config.json", "model.safetensors"]
    return [onnx, timm] if find_spec("onnxruntime") is not None else [timm, onnx]
