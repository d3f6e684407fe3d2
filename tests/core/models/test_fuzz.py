"""Mutated checkpoints: each is read right or refused in our own words, and nothing else."""

from collections import Counter

import pytest

from ..fuzz import is_wrong, run_cases, unfinished
from ..fuzz_pickles import KINDS
from ..fuzz_text import GENERAL


def share_of(found: Counter, outcome: str) -> float:
    return sum(n for (_, own), n in found.items() if own == outcome) / found.total()


def test_mutated_safetensors_files(tmp_path):
    found = run_cases("checkpoint", tmp_path, 30 * len(GENERAL))
    assert {kind for kind, _ in found} == {*GENERAL}
    assert found["pad", "read"] == found["flip_data", "read"] == 30  # they stay whole
    assert found["truncate", "refused"] == found["append", "refused"] == 30
    assert share_of(found, "refused") > 0.6


def test_mutated_and_hostile_pickles(tmp_path):
    found = run_cases("pickle", tmp_path, 40 * len(KINDS))
    assert {kind for kind, _ in found} == {*KINDS}
    assert found["whole", "read"] == found["code", "refused"] == 40
    assert found["tensor_size", "refused"] > 30
    assert share_of(found, "refused") > 0.6


@pytest.mark.parametrize(
    ("lines", "words"), [([[0, "a"], {}, [1, "b"]], "case [1, 'b']"), ([[0, "a"], {}], "between")]
)
def test_a_crash_is_known_by_its_case(lines, words):
    assert words in unfinished(lines)


@pytest.mark.parametrize(
    ("found", "seconds", "wrong"),
    [("read", 1, False), ("refused", 1, False), ("KeyError: 1", 1, True), ("read", 21, True)],
)
def test_what_counts_as_wrong(found, seconds, wrong):
    assert is_wrong({"found": found, "seconds": seconds}) is wrong
