"""Mutated network files and resume states: read right, or refused in our own words."""

from ..fuzz import run_cases
from ..fuzz_text import GENERAL, OF_NETWORKS


def test_mutated_network_files(tmp_path):
    found = run_cases("network", tmp_path, 20 * len(OF_NETWORKS))
    assert {kind for kind, _ in found} == {*OF_NETWORKS}
    assert found["pad", "read"] == 20
    assert found["truncate", "refused"] == found["not_finite", "refused"] == 20


def test_mutated_resume_states(tmp_path):
    """One that is accepted is, number for number, the one that was written."""
    found = run_cases("state", tmp_path, 20 * (len(GENERAL) + 1))
    assert {kind for kind, _ in found} == {*GENERAL, "facts"}
    assert found["pad", "read"] == 20
    assert found["truncate", "refused"] == found["flip_data", "refused"] == 20
