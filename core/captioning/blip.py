"""BLIP (Li et al. 2022) through transformers, from a local folder.

Pictures are prepared here and not by transformers' processor, whose later versions need
torchvision; words are read and written with the tokenizers package for the same reason.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.caption_models import BlipConfig
from ..errors import CheckpointError
from .folders import file_stamp
from .nucleus import NucleusNoise
from .protocol import CaptionerSource, reason_of

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
# CLIP's, which BLIP was trained with
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TIED = {
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
NUCLEUS_PENALTY = 1.1  # on repeated words, as BLIP's authors draw


@dataclass(frozen=True, slots=True)
class BlipFiles:
    """The files of one BLIP."""

    name: str
    config: Path
    weights: Path
    tokenizer: Path

    @classmethod
    def find(cls, folder: Path) -> list["BlipFiles"]:
        """The BLIP whose files lie in this very folder, or none."""
        config = folder / CONFIG
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        tokenizer = next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)
        if weights is None or tokenizer is None or _model_type(config) != "blip":
            return []
        return [cls(folder.name, config, weights, tokenizer)]


def _model_type(config: Path) -> str:
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a BLIP takes pictures. size: the square's side in pixels; mean, std: of R, G, B."""

    size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def read(cls, folder: Path, size: int) -> "Preparation":
        """From the folder's preprocessor_config.json, if it has one; size: the vision model's."""
        path = folder / PROCESSOR
        if not path.is_file():
            return cls(size)
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            mean, std = tuple(facts["image_mean"]), tuple(facts["image_std"])
            return cls(size, tuple(map(float, mean)), tuple(map(float, std)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error


def prepare_picture(picture: Image.Image, how: Preparation) -> np.ndarray:
    """RGB to (3, size, size), float32, normalised; squeezed to a square as BLIP was trained."""
    square = picture.resize((how.size, how.size), Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.float32) / 255.0
    mean, std = (np.asarray(values, dtype=np.float32) for values in (how.mean, how.std))
    pixels = (pixels - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(slots=True)
class _Loaded:
    """A model that is in memory."""

    model: Any
    tokenizer: Any
    preparation: Preparation
    dtype: torch.dtype


class BlipCaptioner:
    """BLIP as a captioner."""

    def __init__(self, files: BlipFiles, config: BlipConfig, source: CaptionerSource) -> None:
        """Nothing is read yet."""
        self.name = files.name
        self._files = files
        self._config = config
        self._source = source
        self._loaded: _Loaded | None = None

    @property
    def identity(self) -> str:
        """Name and stamps of the files that are used."""
        return f"{self.name} {file_stamp(self._files.weights)} {file_stamp(self._files.tokenizer)}"

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """As `prepare_picture`, in the model's size."""
        return prepare_picture(picture, self._model().preparation)

    def caption(self, prepared: Sequence[np.ndarray]) -> list[str]:
        """One sentence for each picture."""
        loaded = self._model()
        prompt = self._config.prompt.strip()
        ids = loaded.tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []
        text = loaded.model.config.text_config
        # generate() replaces the first id by BLIP's beginning and takes the last one away
        row = [text.bos_token_id, *ids, text.sep_token_id]
        pixels = torch.from_numpy(np.stack(prepared)).to(self._source.device, loaded.dtype)
        with torch.inference_mode():
            words = loaded.model.generate(
                pixel_values=pixels,
                input_ids=torch.tensor([row] * len(prepared), device=self._source.device),
                attention_mask=torch.ones(
                    len(prepared), len(row), dtype=torch.long, device=self._source.device
                ),
                max_length=len(row) - 1 + self._config.max_length,
                min_length=len(row) - 1 + self._config.min_length,
                **self._search(prepared),
            )
        return [
            " ".join(part for part in (prompt, self._read(line[len(row) - 1 :])) if part)
            for line in words.tolist()
        ]

    def _search(self, prepared: Sequence[np.ndarray]) -> dict[str, Any]:
        """How generate() looks for words; it never draws from the process's chance."""
        if self._config.method == "beams":
            return {"num_beams": self._config.beams, "do_sample": False}
        from transformers import LogitsProcessorList

        noise = NucleusNoise(self._config.top_p, [self._generator(one) for one in prepared])
        return {
            "num_beams": 1,
            "do_sample": False,
            "repetition_penalty": NUCLEUS_PENALTY,
            "logits_processor": LogitsProcessorList([noise]),  # pyright: ignore[reportArgumentType]
        }

    def _generator(self, prepared: np.ndarray) -> torch.Generator:
        digest = hashlib.sha256(str(self._config.seed).encode())
        digest.update(prepared.tobytes())
        return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "big") >> 1)

    def _read(self, ids: list[int]) -> str:
        """The words up to the end mark."""
        loaded = self._model()
        end = loaded.model.config.text_config.sep_token_id
        ids = ids[: ids.index(end)] if end in ids else ids
        return loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _model(self) -> _Loaded:
        if self._loaded is None:
            self._loaded = _load(self._files, self._source)
        return self._loaded


def _load(files: BlipFiles, source: CaptionerSource) -> _Loaded:
    from transformers import BlipConfig as ModelConfig
    from transformers import BlipForConditionalGeneration

    dtype = torch.float16 if source.device.type == "cuda" else torch.float32
    try:
        config = ModelConfig.from_json_file(str(files.config))
        with torch.random.fork_rng(devices=[]):  # new layers draw from the process's chance
            model: Any = BlipForConditionalGeneration(config)
        _fill(model, source.read_weights(files.weights), files.weights)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _damaged(files.weights, error) from error
    model.eval().requires_grad_(False).to(source.device, dtype)
    preparation = Preparation.read(files.config.parent, model.config.vision_config.image_size)
    return _Loaded(model, _tokenizer(files.tokenizer), preparation, dtype)


def _fill(model: Any, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights in. Positions are counted anew, and of tied weights one is enough."""
    weights = dict(weights)
    for name, other in TIED.items():
        for one, source in ((name, other), (other, name)):
            if source in weights:
                weights.setdefault(one, weights[source])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    lost = [name for name in missing if not name.endswith("position_ids")]
    alien = [name for name in unexpected if not name.endswith("position_ids")]
    if lost or alien:
        what = f"lacks {lost[0]}" if lost else f"has {alien[0]}, which BLIP has not"
        raise CheckpointError(
            f"{path} {what} ({len(lost)} missing, {len(alien)} too many): it is not a BLIP for "
            "captions, such as Salesforce/blip-image-captioning-large"
        )


def _tokenizer(path: Path) -> Any:
    """BERT's, lower case, with the vocabulary of a tokenizer.json or a vocab.txt."""
    from tokenizers import BertWordPieceTokenizer

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            vocabulary = {
                str(word): int(n) for word, n in json.loads(text)["model"]["vocab"].items()
            }
        else:
            words = text.removesuffix("\n").split("\n")
            vocabulary = {word.rstrip("\r"): number for number, word in enumerate(words)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    missing = {"[CLS]", "[SEP]", "[UNK]"} - vocabulary.keys()
    if missing:
        raise CheckpointError(f"BLIP's {path} lacks {min(missing)}: download the file again")
    return BertWordPieceTokenizer(vocab=vocabulary, lowercase=True)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"BLIP's {path} can't be used ({reason_of(error)}): download the file again"
    )
