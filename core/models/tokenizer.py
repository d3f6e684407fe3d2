"""CLIP's tokenizer: lower-cased byte-pair encoding of 49408 tokens, 77 to a caption.

Built on the `tokenizers` package from the vocabulary that comes with this one: no download, and the
same ids in every version of transformers. Source: Radford et al. 2021, openai/CLIP
`simple_tokenizer.py`.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 49408
START, END = 49406, 49407
TOKENS = 77  # of one caption, with START and END
ROOM = TOKENS - 2

_FILE = Path(__file__).parent / "tokenizer_data" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = VOCABULARY - 512 - 2  # the file holds more than CLIP was trained with
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """Captions to token ids. The vocabulary is read at the first use."""

    def encode(self, captions: list[str]) -> Tensor:
        """Ids (B, 77), int64: START, the caption, END, then END again as padding (SD1's way).

        What goes beyond 75 tokens is cut off; `count` tells it beforehand.
        """
        rows = [[START, *self._ids(caption)[:ROOM]] for caption in captions]
        padded = [row + [END] * (TOKENS - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).view(-1, TOKENS)

    def count(self, caption: str) -> int:
        """Tokens of a caption without START and END; 75 (`ROOM`) fit, the rest has no effect."""
        return len(self._ids(caption))

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
