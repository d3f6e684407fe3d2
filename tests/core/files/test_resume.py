"""Resume states: exact, and one good one there whatever happens during a save."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lora_loop.core.errors import FileError
from lora_loop.core.files import resume
from lora_loop.core.files.resume import (
    ResumeState,
    forget_states,
    load_state,
    save_state,
    state_paths,
)


def state(step: int = 3) -> ResumeState:
    chance = torch.Generator().manual_seed(step)
    return ResumeState(
        recipe="r" * 64,
        dataset="d" * 64,
        base="b" * 64,
        step=step,
        images=2 * step,
        losses=tuple(1 / (3 + n) for n in range(step)),
        lrs=tuple(1e-4 * n / 7 for n in range(step)),
        tensors={
            "unet.a.down": torch.randn(2, 3, generator=chance),
            "optimizer.step": torch.tensor(float(step)),
            "unet.a.half": torch.randn(5, generator=chance).bfloat16(),
            "count": torch.tensor([step, -1]),
        },
    )


def same(first: ResumeState | None, second: ResumeState) -> bool:
    return (
        first is not None
        and replace(first, tensors={}) == replace(second, tensors={})
        and sorted(first.tensors) == sorted(second.tensors)
        and all(
            torch.equal(first.tensors[name], tensor) and first.tensors[name].dtype == tensor.dtype
            for name, tensor in second.tensors.items()
        )
    )


@pytest.fixture(params=["a.safetensors", "my lora v1.2.safetensors", "犬 ü.SAFETENSORS"])
def network(request, tmp_path) -> Path:
    return tmp_path / "out put" / request.param


@pytest.fixture
def plain(tmp_path) -> Path:
    return tmp_path / "momo.safetensors"


def test_round_trip_is_exact(network):
    assert load_state(network) is None
    path = save_state(network, state())
    assert path == state_paths(network)[0]
    read = load_state(network)
    assert same(read, state())
    assert read is not None
    assert read.losses == (1 / 3, 1 / 4, 1 / 5)  # float64: not rounded to float32


def test_before_the_first_step(plain):
    save_state(plain, state(0))
    assert same(load_state(plain), state(0))


def test_losses_that_are_not_finite_survive(plain):
    save_state(plain, replace(state(2), losses=(math.inf, math.nan)))
    read = load_state(plain)
    assert read is not None
    assert read.losses[0] == math.inf
    assert math.isnan(read.losses[1])


def test_hosts_do_not_list_states(network):
    names = [path.name for path in state_paths(network)]
    assert len(set(names)) == 2
    for name in names:
        assert name.startswith(network.stem)
        assert Path(name).suffix.lower() not in {".safetensors", ".pt", ".ckpt", ".bin"}


def test_names_that_share_a_start_have_their_own_states(tmp_path):
    first, second = tmp_path / "v1.safetensors", tmp_path / "v1.5.safetensors"
    save_state(first, state(1))
    save_state(second, state(2))
    assert same(load_state(first), state(1))
    assert same(load_state(second), state(2))


def test_what_was_read_does_not_hang_on_its_file(plain):
    path = save_state(plain, state())
    read = load_state(plain)
    content = path.read_bytes()
    path.write_bytes(b"\x00" * len(content))  # in place: a mapped file would change in memory
    assert same(read, state())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"recipe"}, "the recipe changed"),
        ({"dataset"}, "the dataset changed"),
        ({"base"}, "the base model changed"),
        ({"recipe", "base"}, "the recipe and the base model changed"),
        ({"recipe", "dataset", "base"}, "the recipe and the dataset and the base model changed"),
    ],
)
def test_require_same_names_what_differs(changed, words):
    now = {"recipe": "r" * 64, "dataset": "d" * 64, "base": "b" * 64}
    state().require_same(**now)
    now.update(dict.fromkeys(changed, "other"))
    with pytest.raises(FileError, match=rf"step 3\).*{words}.*--restart"):
        state().require_same(**now)


def test_the_one_before_is_kept(plain):
    for step in (1, 2, 3):
        save_state(plain, state(step))
    newest, previous = state_paths(plain)
    assert sorted(plain.parent.iterdir()) == sorted([newest, previous])
    newest.unlink()
    assert same(load_state(plain), state(2))


def cuts(length: int) -> list[int]:
    return [0, 1, 7, 8, 9, *(length * n // 16 for n in range(1, 16)), length - 1]


def test_a_half_written_newest_falls_back_wherever_it_ends(plain):
    save_state(plain, state(1))
    newest = save_state(plain, state(2))
    content = newest.read_bytes()
    for end in cuts(len(content)):
        newest.write_bytes(content[:end])
        assert same(load_state(plain), state(1))
    newest.write_bytes(content)
    assert same(load_state(plain), state(2))


def test_a_changed_number_is_noticed(plain):
    save_state(plain, state(1))
    newest = save_state(plain, state(2))
    content = newest.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content), 5):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        newest.write_bytes(flipped)
        assert same(load_state(plain), state(1))


def test_a_change_anywhere_is_noticed(plain):
    """Also of a fact, a name or a shape, which a checksum of the numbers alone lets pass."""
    newest = save_state(plain, state(2))
    content = newest.read_bytes()
    for position in range(8 + int.from_bytes(content[:8], "little")):
        for bit in (1, 2, 4):
            flipped = bytearray(content)
            flipped[position] ^= bit
            newest.write_bytes(flipped)
            with pytest.raises(FileError):
                load_state(plain)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"step\\": 3', b'\\"step\\": 4'),
        (b'\\"images\\": 6', b'\\"images\\": 7'),
        (b"r" * 64, b"r" * 63 + b"s"),
        (b"unet.a.down", b"unet.b.down"),
        (b"[2,3]", b"[3,2]"),
    ],
)
def test_facts_names_and_shapes_are_covered_by_the_checksum(plain, old, new):
    path = save_state(plain, state())
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(FileError, match="is damaged: its content is not what was written"):
        load_state(plain)


def test_a_damaged_state_that_cannot_be_set_aside_names_what_to_do(plain, monkeypatch):
    save_state(plain, state(1))
    newest = save_state(plain, state(2))
    newest.write_bytes(b"damaged")
    saboteur = Saboteur(monkeypatch, OSError(13, "Permission denied"))
    saboteur.last = 1
    with pytest.raises(FileError, match=r"damaged.*Permission denied.*remove it") as caught:
        load_state(plain)
    assert str(newest) in str(caught.value)
    saboteur.last = 0
    assert same(load_state(plain), state(1))


def test_states_that_cannot_be_looked_for(tmp_path):
    with pytest.raises(FileError, match=r"can't be looked for \(File name too long\)"):
        load_state(tmp_path / f"{'x' * 300}.safetensors")
    (tmp_path / "file").write_bytes(b"")
    assert load_state(tmp_path / "file" / "a.safetensors") is None


def test_going_on_after_damage_keeps_the_good_one(plain):
    save_state(plain, state(1))
    newest = save_state(plain, state(2))
    newest.write_bytes(b"damaged")
    assert same(load_state(plain), state(1))
    assert same(load_state(plain), state(1))
    save_state(plain, state(3))
    assert same(load_state(plain), state(3))
    newest.write_bytes(b"damaged again")
    assert same(load_state(plain), state(1))  # the damaged one did not push it out


def test_two_damaged_ones_are_an_error(plain):
    save_state(plain, state(1))
    save_state(plain, state(2))
    for path in state_paths(plain):
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):  # asked again, it does not quietly begin anew
        with pytest.raises(FileError, match=r"no resume state is whole.*--restart") as caught:
            load_state(plain)
        assert all(str(path) in str(caught.value) for path in state_paths(plain))


def test_a_file_without_tensors_is_an_error(plain):
    # safetensors 0.4.2 can't read it at all; newer ones find that it is no resume state
    safetensors.torch.save_file({}, state_paths(plain)[0], {"format": "pt"})
    with pytest.raises(FileError, match=r"no resume state is whole.*--restart"):
        load_state(plain)


@pytest.mark.parametrize("tensors", [{"a": torch.ones(2)}, {"history.losses": torch.ones(1)}])
def test_another_kind_of_file_is_an_error(plain, tensors):
    safetensors.torch.save_file(tensors, state_paths(plain)[0], {"format": "pt"})
    with pytest.raises(FileError, match="not a resume state that this version reads"):
        load_state(plain)


WHOLE = {"recipe": "r", "dataset": "d", "base": "b", "step": 3, "images": 6}


@pytest.mark.parametrize(
    "facts",
    [
        *("[]", "{}", "no json", "[" * 100_000, "1" * 5000, '{"step": 1, "more": 2}'),
        json.dumps({**WHOLE, "step": "3"}),
        json.dumps({**WHOLE, "step": 3.0}),
        json.dumps({**WHOLE, "images": True}),
        json.dumps({**WHOLE, "step": -1}),
        json.dumps({**WHOLE, "base": None}),
    ],
)
def test_facts_that_cannot_be(plain, monkeypatch, facts):
    save_state(plain, state())
    path = state_paths(plain)[0]
    tensors = safetensors.torch.load_file(path)
    metadata = {"format": resume.FORMAT, "facts": facts}
    metadata["sha256"] = resume.content_hash(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(FileError, match="is damaged"):
        load_state(plain)


class Killed(BaseException):
    """The process ends here: nothing that comes later is done."""


class Saboteur:
    """Lets the calls of a save through until the `last`-th, which raises `error`."""

    def __init__(self, monkeypatch, error: BaseException):
        self.error, self.calls, self.last = error, 0, 0
        for owner, name in (
            (resume, "write_file"),
            (os, "fsync"),
            (Path, "replace"),
            (Path, "chmod"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self.guarded(getattr(owner, name)))

    def guarded(self, call: Callable) -> Callable:
        def guard(*args, **kwargs):
            if self.last:
                self.calls += 1
                if self.calls == self.last or (
                    self.calls > self.last and isinstance(self.error, Killed)
                ):
                    if call.__name__ == "write_file":
                        args[0].write_bytes(b"half of it")
                    raise self.error
            return call(*args, **kwargs)

        return guard


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()])
def test_one_good_state_is_there_wherever_a_save_fails(tmp_path, monkeypatch, error):
    saboteur = Saboteur(monkeypatch, error)
    outcomes, reached = [], True
    for last in range(1, 20):
        network = tmp_path / str(last) / "a.safetensors"
        save_state(network, state(1))
        save_state(network, state(2))
        saboteur.calls, saboteur.last = 0, last
        try:
            save_state(network, state(3))
            failed = False
        except (FileError, Killed):
            failed = True
        reached, saboteur.last = saboteur.calls >= last, 0
        read = load_state(network)
        assert same(read, state(3)) or (failed and same(read, state(2)))
        outcomes.append(failed)
        save_state(network, state(4))  # and the next save is as good as ever
        assert same(load_state(network), state(4))
        if not reached:
            break
    assert not reached  # every point was tried
    assert sum(outcomes) >= 4  # write, sync, both renames


def test_a_full_disk_leaves_no_draft(plain, monkeypatch):
    save_state(plain, state(1))
    saboteur = Saboteur(monkeypatch, OSError(28, "No space left on device"))
    saboteur.last = 2  # the writing itself
    with pytest.raises(FileError, match="disk is full"):
        save_state(plain, state(2))
    saboteur.last = 0
    assert list(plain.parent.iterdir()) == [state_paths(plain)[0]]
    assert same(load_state(plain), state(1))


def test_a_state_that_reads_back_wrong_is_not_kept(plain, monkeypatch):
    save_state(plain, state(1))

    def write_wrong(path, tensors, metadata):
        real(path, {**tensors, "count": torch.tensor([0, 0])}, metadata)

    real = resume.write_file
    monkeypatch.setattr(resume, "write_file", write_wrong)
    with pytest.raises(FileError, match="damaged"):
        save_state(plain, state(2))
    assert same(load_state(plain), state(1))


def test_forget_states(plain):
    forget_states(plain)  # none there: nothing to do
    plain.write_bytes(b"the network")
    save_state(plain, state(1))
    save_state(plain, state(2))
    forget_states(plain)
    assert list(plain.parent.iterdir()) == [plain]
    assert load_state(plain) is None


def test_states_that_cannot_be_removed_only_warn(plain, monkeypatch, caplog):
    newest = save_state(plain, state(1))
    saboteur = Saboteur(monkeypatch, OSError(13, "Permission denied"))
    saboteur.last = 1
    forget_states(plain)
    assert str(newest) in caplog.text
