"""Taggers of the WD14 family (SmilingWolf), run by onnxruntime or timm.

Preparation as the models' author does it: padded with white to a square, bicubic to the model's
size, blue before red. The ONNX files take numbers from 0 to 255 and channels last; exports with
channels first, timm's models among them, take numbers from -1 to 1.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ..config.caption_models import TaggerConfig
from ..errors import CheckpointError
from .folders import file_stamp
from .protocol import CaptionerSource, reason_of
from .tags import TagList, choose_tags, read_tags

SIZE = 448  # of the family, where a model's own size is not fixed
TAGS = "selected_tags.csv"
ONNX, TIMM, TIMM_CONFIG = "model.onnx", "model.safetensors", "config.json"
# In the order in which they are tried; TensorRT is left out, which compiles for minutes.
PROVIDERS = (
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "MIGraphXExecutionProvider",
    "DmlExecutionProvider",
    "CoreMLExecutionProvider",
)
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class TaggerFiles:
    """The files of one tagger; `onnx` and `timm` are None where they are missing."""

    name: str
    tags: Path
    onnx: Path | None
    timm: Path | None

    @classmethod
    def find(cls, folder: Path) -> list["TaggerFiles"]:
        """The taggers whose files lie in this very folder.

        Either one model under the names of its page, or files called NAME.onnx and NAME.csv.
        """
        found = []
        tags = folder / TAGS
        onnx = folder / ONNX if (folder / ONNX).is_file() else None
        timm = folder / TIMM if (folder / TIMM).is_file() else None
        if not (folder / TIMM_CONFIG).is_file():
            timm = None
        if tags.is_file() and (onnx or timm):
            found.append(cls(folder.name, tags, onnx, timm))
        for path in sorted(folder.glob("*.onnx")):
            beside = path.with_suffix(".csv")
            if beside.is_file():
                found.append(cls(path.stem, beside, path, None))
        return found


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model takes. batch: 0 where any is taken. size: pixels of the square's side."""

    batch: int
    size: int
    channels_first: bool

    @classmethod
    def of(cls, dimensions: Sequence[Any]) -> "Shape":
        """From an ONNX input's four dimensions, of which any may be no number but a name."""
        batch, *rest = [size if isinstance(size, int) and size > 0 else 0 for size in dimensions]
        channels_first = rest[0] == 3 and rest[2] != 3
        sides = rest[1:] if channels_first else rest[:2]
        return cls(batch, max(sides) or SIZE, channels_first)


def prepare_picture(picture: Image.Image, size: int) -> np.ndarray:
    """RGB to a white-padded square: (size, size, 3), uint8, blue green red."""
    side = max(picture.size)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, (left, top))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square)[:, :, ::-1])


def model_input(prepared: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Prepared pictures as the numbers that a model of this shape takes, float32."""
    batch = np.stack(prepared).astype(np.float32)
    if not shape.channels_first:
        return batch
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2) / 127.5 - 1.0)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Scores in [0, 1]; models that end before the sigmoid give logits."""
    outputs = np.asarray(outputs, dtype=np.float32)
    if outputs.min() >= 0 and outputs.max() <= 1:
        return outputs
    return 1.0 / (1.0 + np.exp(-outputs))


Run = Callable[[np.ndarray], np.ndarray]


@dataclass(slots=True)
class _Loaded:
    """A model that is in memory. run: (B, ...) float32 to (B, tags)."""

    shape: Shape
    run: Run
    tags: TagList


class WD14Tagger:
    """A tagger as a captioner."""

    def __init__(self, files: TaggerFiles, config: TaggerConfig, source: CaptionerSource) -> None:
        """Choose the runtime; nothing is read yet. Raises CheckpointError where there is none."""
        self.name = files.name
        self._files = files
        self._config = config
        self._source = source
        self._runtime = choose_runtime(files)
        self._loaded: _Loaded | None = None

    @property
    def identity(self) -> str:
        """Name and stamps of the files that are used."""
        weights = self._files.onnx if self._runtime == "onnx" else self._files.timm
        return f"{self.name} {file_stamp(weights)} {file_stamp(self._files.tags)}"

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """As `prepare_picture`, in the model's size."""
        return prepare_picture(picture, self._model().shape.size)

    def caption(self, prepared: Sequence[np.ndarray]) -> list[str]:
        """The tags of each picture."""
        model = self._model()
        step = model.shape.batch or len(prepared)
        captions: list[str] = []
        for start in range(0, len(prepared), step):
            part = list(prepared[start : start + step])
            full = part + part[-1:] * (model.shape.batch - len(part))  # a fixed batch is filled up
            scores = probabilities(model.run(model_input(full, model.shape)))
            if scores.shape != (len(full), len(model.tags.names)):
                raise CheckpointError(
                    f"{self._files.tags} lists {len(model.tags.names)} tags but the model gives "
                    f"{scores.shape[-1]}: the two files are of different models; download both"
                )
            captions += [choose_tags(model.tags, row, self._config) for row in scores[: len(part)]]
        return captions

    def _model(self) -> _Loaded:
        if self._loaded is None:
            tags = read_tags(self._files.tags)
            if self._runtime == "onnx":
                self._loaded = _load_onnx(self._files, tags, self._source.device)
            else:
                self._loaded = _load_timm(self._files, tags, self._source)
        return self._loaded


def choose_runtime(files: TaggerFiles) -> Literal["onnx", "timm"]:
    """onnxruntime where it and the file are there, else timm. Raises CheckpointError."""
    if files.onnx is not None and find_spec("onnxruntime") is not None:
        return "onnx"
    if files.timm is not None and find_spec("timm") is not None:
        return "timm"
    usable = {"onnxruntime": files.onnx, "timm": files.timm}
    raise _missing(files.name, [package for package, file in usable.items() if file is not None])


def require_runtime(name: str) -> None:
    """Raise CheckpointError where no tagger can run here, before one is downloaded."""
    packages = ["onnxruntime", "timm"]
    if not any(find_spec(package) is not None for package in packages):
        raise _missing(name, packages)


def _missing(name: str, packages: list[str]) -> CheckpointError:
    return CheckpointError(
        f"the tagger {name} needs the Python package {' or '.join(packages)}, which is not "
        f"installed here: run pip install {packages[0]} in this program's Python environment"
    )


def _load_onnx(files: TaggerFiles, tags: TagList, device: torch.device) -> _Loaded:
    import onnxruntime

    # its errors share no class of their own
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    faults = tuple(kind for kind in own if issubclass(kind, Exception))
    there = onnxruntime.get_available_providers()
    fast = PROVIDERS if device.type != "cpu" else ()
    providers = [*(name for name in fast if name in there), CPU_PROVIDER]
    try:
        session = onnxruntime.InferenceSession(str(files.onnx), providers=providers)
        source = session.get_inputs()[0]
        shape = Shape.of(source.shape)
    except (*faults, RuntimeError, ValueError, TypeError, IndexError, OSError) as error:
        raise _damaged(files.onnx, error) from error

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {source.name: batch})[0])

    return _Loaded(shape, run, tags)


def _load_timm(files: TaggerFiles, tags: TagList, source: CaptionerSource) -> _Loaded:
    import timm  # pyright: ignore[reportMissingImports] - not among the tests' packages

    path = files.timm
    assert path is not None
    try:
        facts = json.loads((path.parent / TIMM_CONFIG).read_text(encoding="utf-8"))
        with torch.random.fork_rng(devices=[]):  # new layers draw from the process's chance
            model = timm.create_model(
                facts["architecture"],
                pretrained=False,
                num_classes=facts.get("num_classes") or len(tags.names),
                **facts.get("model_args", {}),
            )
        model.load_state_dict(source.read_weights(path))
        size = int(facts.get("pretrained_cfg", facts)["input_size"][-1])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _damaged(path, error) from error
    model.eval().requires_grad_(False).to(source.device)

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores = torch.sigmoid(model(torch.from_numpy(batch).to(source.device)).float())
        return scores.cpu().numpy()

    return _Loaded(Shape(0, size, channels_first=True), run, tags)


def _damaged(path: Path | None, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the tagger {path} can't be used ({reason_of(error)}): download the file again, or update "
        "onnxruntime or timm where the model is newer"
    )
