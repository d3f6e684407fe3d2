"""A thin SD1 checkpoint that the WebUI loads, by a configuration of its own beside it."""

import gzip
import json
from pathlib import Path

import torch

from ..core.models import make_checkpoint

_TOKENS = Path(__file__).parents[2] / "core" / "models" / "tokenizer_data"
_MERGES = 49408 - 512 - 2
# What makes the host's configuration that of make_checkpoint.THIN.
_THINNER = {
    "model_channels: 320": "model_channels: 32",
    "channel_mult: [ 1, 2, 4, 4 ]": "channel_mult: [ 1, 1, 2, 2 ]",
    "context_dim: 768": "context_dim: 64",
    "ch: 128": "ch: 32",
    "          - 1\n          - 2\n          - 4\n          - 4\n": (
        "          - 1\n          - 1\n          - 1\n          - 2\n"
    ),
}


def write_thin(webui: Path, path: Path, seed: int) -> Path:
    """Write the checkpoint, its .yaml and, beside them, the text encoder's folder."""
    make_checkpoint.write_sd1_checkpoint(
        path,
        shape=make_checkpoint.THIN,
        seed=seed,
        dtype=torch.float32,
        metadata={"modelspec.resolution": "64x64"},
    )
    text = (webui / "configs" / "v1-inference.yaml").read_text()
    for known, thinner in _THINNER.items():
        assert known in text
        text = text.replace(known, thinner)
    clip = _write_clip(path.with_name("clip"))
    text = f"{text.rstrip()}\n      params:\n        version: {clip}\n"
    path.with_suffix(".yaml").write_text(text)
    return path


def _write_clip(folder: Path) -> Path:
    """What transformers reads for `version:`: a configuration, and the tokenizer's files."""
    folder.mkdir(exist_ok=True)
    config = {
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "projection_dim": 64,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with gzip.open(_TOKENS / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().splitlines()[1 : _MERGES + 1]
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    end = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "<|startoftext|>", "unk_token": "<|endoftext|>", **end})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "do_lower_case": True})
    )
    return folder


def _letters() -> list[str]:
    """The 256 bytes as printable letters, in CLIP's order (Radford et al., GPT-2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(others))]
