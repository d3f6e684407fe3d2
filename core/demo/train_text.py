"""Training the base model's text encoder, alone, on captions whose meaning is known."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base_parts import CONTEXT_DIM
from .draw import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, TEXTURES, caption, sample_scene

BOS, EOS = 49406, 49407
FIRST_WORD, LAST_WORD = 512, 49405  # ids of whole and partial words in CLIP's vocabulary
KINDS = ("shape", "colour", "background", "size", "position", "texture")
VALUES: dict[str, tuple[str, ...]] = {
    "shape": (*SHAPES, "smiling face", "sad face"),
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "texture": TEXTURES,
}


class WordIds(Protocol):
    """Turns a text into CLIP's ids without begin, end and padding."""

    def __call__(self, text: str) -> list[int]:
        """Ids of the text's tokens."""
        ...


def padded(ids: list[int], length: int) -> list[int]:
    """Put begin and end around ids and fill up with the end's id."""
    kept = [BOS, *ids[: length - 2], EOS]
    return kept + [EOS] * (length - len(kept))


def meanings(words: list[str]) -> list[tuple[int, ...]]:
    """For each word, what has been said up to it: one number per kind, 0 where nothing yet."""
    said, row = [], dict.fromkeys(KINDS, 0)
    mood = ""
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        after = words[place + 1] if place + 1 < len(words) else ""
        if word == "background" and before in BACKGROUNDS:
            row["background"] = 1 + VALUES["background"].index(before)
        elif word in COLOURS and after != "background":
            row["colour"] = 1 + VALUES["colour"].index(word)
        elif word in ("smiling", "sad"):
            mood = word
        elif word == "face":
            row["shape"] = 1 + VALUES["shape"].index(f"{mood} face")
        for kind in ("shape", "size", "position", "texture"):
            if word in VALUES[kind]:
                row[kind] = 1 + VALUES[kind].index(word)
        said.append(tuple(row[kind] for kind in KINDS))
    return said


def text_batch(word_ids: WordIds, seed: int, step: int, count: int) -> tuple[Tensor, Tensor]:
    """Make captions, some with unknown words: ids (B, T), meanings (B, T, 6), -1: not asked."""
    rng = np.random.default_rng((seed, 2, step))
    length = 77 if step % 4 == 0 else 28
    ids, said = [], []
    for _ in range(count):
        text = caption(sample_scene(rng), rng) if rng.random() > 0.03 else ""
        words = text.replace(",", " ,").split()
        tokens, labels = word_ids(text), meanings(words)
        if len(tokens) != len(words):
            raise ValueError(f"caption {text!r} has a word of several tokens")
        if rng.random() < 0.4:
            place = int(rng.integers(len(tokens) + 1))
            for _ in range(int(rng.integers(1, 4))):
                tokens.insert(place, int(rng.integers(FIRST_WORD, LAST_WORD)))
                labels.insert(place, labels[place - 1] if place else (0,) * len(KINDS))
        ids.append(padded(tokens, length))
        last = labels[-1] if labels else (0,) * len(KINDS)
        rows = [(-1,) * len(KINDS), *labels, *[last] * length]
        said.append(rows[:length])
    return torch.tensor(ids), torch.tensor(said)


class TextTeacher(nn.Module):
    """Reads a text encoder's hidden states: meanings, the next word, the words so far."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(nn.Linear(CONTEXT_DIM, 1 + len(VALUES[k])) for k in KINDS)
        self.following = nn.Linear(CONTEXT_DIM, CONTEXT_DIM)
        self.present = nn.Linear(CONTEXT_DIM, CONTEXT_DIM)
        self.summary = nn.Linear(CONTEXT_DIM, CONTEXT_DIM)

    def forward(self, encoder: Any, ids: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and the share of meanings read rightly at the end; ids (B, T), said (B, T, 6)."""
        hidden = encoder(input_ids=ids).last_hidden_state
        loss = hidden.new_zeros(())
        right = hidden.new_ones(ids.shape[0], dtype=torch.bool)
        for place, head in enumerate(self.kinds):
            logits = head(hidden)
            loss = loss + F.cross_entropy(
                logits.flatten(0, 1), said[..., place].flatten(), ignore_index=-1
            )
            right &= logits[:, -1].argmax(-1) == said[:, -1, place]
        table = encoder.get_input_embeddings().weight
        words, index = torch.unique(ids, return_inverse=True)
        names = F.normalize(table[words], dim=-1) * 10
        real = (ids != EOS) & (ids != BOS)
        seen = F.normalize(self.present(hidden[real]), dim=-1)
        own = F.cross_entropy(seen @ names.T, index[real])
        step = real[:, 1:] & real[:, :-1]
        ahead = self.following(hidden[:, :-1][step]) @ names.T / 10
        ahead_loss = F.cross_entropy(ahead, index[:, 1:][step])
        bag = F.normalize(self.summary(hidden[:, -1]), dim=-1) @ names.T
        holds = torch.zeros_like(bag).scatter_(1, index, 1.0)
        bag_loss = F.binary_cross_entropy_with_logits(bag * 1.0 - 2, holds)
        return loss + own + 0.2 * ahead_loss + bag_loss, right.float().mean()


def start_text_encoder(encoder: Any, generator: torch.Generator) -> None:
    """Fill the embeddings at random, words well apart from one another; in place."""
    for name, param in encoder.named_parameters():
        if "token_embedding" in name:
            param.data.normal_(0, 0.1, generator=generator)
        elif "position_embedding" in name:
            param.data.normal_(0, 0.05, generator=generator)
        elif param.ndim == 2:
            param.data.normal_(0, param.shape[1] ** -0.5 * 0.6, generator=generator)
        if "final_layer_norm" in name:
            param.requires_grad_(False)
