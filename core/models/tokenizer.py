"""CLIP's tokenizer: lower-cased byte-pair encoding of 49408 tokens, 77 to a chunk of a caption.

Built on the `tokenizers` package from the vocabulary that comes with this one: no download, and the
same ids in every version of transformers. Source: Radford et al. 2021, openai/CLIP
`simple_tokenizer.py`.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .emphasis import Span, parse_emphasis

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 49408
START, END = 49406, 49407
TOKENS = 77  # of one chunk, with START and END
ROOM = TOKENS - 2

_FILE = Path(__file__).parent / "tokenizer_data" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = VOCABULARY - 512 - 2  # the file holds more than CLIP was trained with
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokens(NamedTuple):
    """Captions as a text encoder takes them, each in `chunks` rows.

    ids: (B, chunks, 77), int64. weights: (B, chunks, 77), fp32, 1 for START, END and padding; None
    where captions are not read as weighted.
    """

    ids: Tensor
    weights: Tensor | None = None


class ClipTokenizer:
    """Captions to token ids. The vocabulary is read at the first use."""

    def encode(self, captions: list[str]) -> Tensor:
        """Ids (B, 77), int64: START, the caption, END, then END again as padding (SD1's way).

        What goes beyond 75 tokens is cut off; `count` tells it beforehand.
        """
        return self.encode_chunks(captions).ids[:, 0]

    def encode_chunks(
        self, captions: list[str], *, pad: int = END, chunks: int = 1, weighted: bool = False
    ) -> Tokens:
        """Ids of captions in chunks of 75 tokens: each START, its part, END, then `pad`.

        Always `chunks` of them: those after the caption's end are START, END and padding. A caption
        is divided after every 75th token, wherever words end, as kohya sd-scripts does; what goes
        beyond the last chunk is cut off. weighted: whether brackets are weights (see `emphasis`)
        and not tokens.
        """
        rows, weights = [], []
        for caption in captions:
            tokens = self._tokens(caption, weighted)
            for start in range(0, chunks * ROOM, ROOM):
                part = tokens[start : start + ROOM]
                padding = ROOM - len(part)
                rows.append([START, *(token for token, _ in part), END, *[pad] * padding])
                weights.append([1.0, *(weight for _, weight in part), *[1.0] * (1 + padding)])
        shape = (len(captions), chunks, TOKENS)
        ids = torch.tensor(rows, dtype=torch.int64).view(shape)
        return Tokens(ids, torch.tensor(weights).view(shape) if weighted else None)

    def count(self, caption: str, *, weighted: bool = False) -> int:
        """Tokens of a caption without START and END; what goes beyond 75 a chunk has no effect.

        weighted: whether brackets are weights, which count for nothing.
        """
        return len(self._tokens(caption, weighted))

    def _tokens(self, caption: str, weighted: bool) -> list[tuple[int, float]]:
        """Ids with their weights; a span is tokenized on its own, so that a bracket ends a word."""
        spans = parse_emphasis(caption) if weighted else [Span(caption, 1.0)]
        return [(token, weight) for text, weight in spans for token in self._ids(text)]

    def _ids(self, caption: str) -> list[int]:
        # half of a surrogate pair, as from a broken JSON escape, has no bytes
        text = caption.encode("utf-8", "replace").decode("utf-8")
        return _backend().encode(text, add_special_tokens=False).ids


def byte_letters() -> dict[int, str]:
    """A printable letter for each byte: the vocabulary is one of texts (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + n) for n, byte in enumerate(others)})
    return letters


def read_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token, and the merges in their order of rank."""
    lines = gzip.decompress(_FILE.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in map(str.split, lines[1 : 1 + _MERGES])]
    letters = list(byte_letters().values())
    tokens = [*letters, *(letter + _WORD_END for letter in letters), *map("".join, merges), *_MARKS]
    return {token: number for number, token in enumerate(tokens)}, merges


@lru_cache(maxsize=1)
def _backend() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = read_vocabulary()
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix=_WORD_END,
        fuse_unk=False,
        unk_token=_MARKS[1],
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens(list(_MARKS))
    return backend
