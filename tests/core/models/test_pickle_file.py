"""Pickled checkpoints: tensors are taken, code is never run."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from lora_loop.core.errors import CheckpointError
from lora_loop.core.models.checkpoint import open_checkpoint

STATE = {"a.weight": torch.randn(2, 3), "b": torch.randn(4).half()}


class Malicious:
    """What, unpickled without care, creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "nested",
    [
        STATE,
        {"state_dict": STATE, "global_step": 5, "epoch": 1.5},
        {"model": {"state_dict": STATE}},
        {"state_dict": {name: torch.nn.Parameter(value) for name, value in STATE.items()}},
    ],
)
def test_tensors_are_found_where_savers_put_them(tmp_path, nested, zipped):
    path = tmp_path / "Modell ü.CKPT"
    torch.save(nested, path, _use_new_zipfile_serialization=zipped)
    opened = open_checkpoint(path)
    assert opened.shapes == {"a.weight": (2, 3), "b": (4,)}
    for name, value in STATE.items():
        assert torch.equal(opened.tensor(name), value)
        assert not opened.tensor(name).requires_grad


@pytest.mark.parametrize("zipped", [True, False, None])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped):
    target = tmp_path / "proof"
    path = tmp_path / "model.ckpt"
    content = {"state_dict": STATE, "callbacks": Malicious(target)}
    if zipped is None:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="maybe code") as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))  # noqa: S301 the proof that it would have run
    assert target.exists()


def test_a_tar_that_begins_like_a_pickle_is_refused(tmp_path):
    """Old versions of torch unpickle what is in a tar without any restriction (CVE-2025-32434)."""
    target, path = tmp_path / "proof", tmp_path / "model.ckpt"
    with tarfile.open(path, "w") as archive:
        for name in ("\u0080\u0002 pickle", "storages", "tensors", "pickle"):
            content = pickle.dumps(Malicious(target))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    raw = bytearray(path.read_bytes())
    raw[:1] = b"\x80"
    checksum = sum(raw[:148]) + sum(raw[156:512]) + 8 * 32
    raw[148:156] = f"{checksum:06o}\0 ".encode()
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="damaged pickle"):
        open_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pickle_is_refused(tmp_path, zipped, kept):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.randn(5000)}, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


@pytest.mark.parametrize("content", [{}, {"state_dict": {"a": 1}}, [torch.zeros(1)], 5, None])
def test_a_pickle_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="no named tensors"):
        open_checkpoint(path)


VIEWS = {
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "part": torch.arange(40).reshape(5, 8)[1:4, 2:5],
    "stepped": torch.arange(20).half()[3::4],
    "scalar": torch.tensor(2.5).double(),
    "none": torch.empty(0, 3),
    "permuted": torch.randn(2, 3, 4, 5).permute(3, 0, 2, 1),
    "byte": torch.tensor([1, 2], dtype=torch.uint8),
    "truth": torch.tensor([True, False]),
    "brain": torch.randn(3).bfloat16(),
    "parameter": torch.nn.Parameter(torch.randn(2)),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_those_that_torch_saved(tmp_path, zipped, protocol):
    whole = torch.randn(6, 6)
    saved = {**VIEWS, "whole": whole, "row": whole[2], "column": whole[:, 1]}  # one storage
    if zipped and hasattr(torch, "float8_e4m3fnuz"):  # torch 2.1, without it, saves no float8
        saved["tiny"] = torch.randn(5).to(torch.float8_e4m3fn)
    path = tmp_path / "model.ckpt"
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    opened = open_checkpoint(path)
    assert opened.shapes == {name: tuple(tensor.shape) for name, tensor in saved.items()}
    for name, tensor in saved.items():
        assert opened.tensor(name).dtype == tensor.dtype
        assert torch.equal(opened.tensor(name).float(), tensor.float())


def test_what_stands_beside_the_tensors_is_left_out(tmp_path):
    path = tmp_path / "model.ckpt"
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    extras = {
        "optimizer_states": [optimizer.state_dict()],
        "set": {1, 2},
        "bytes": b"abc",
        "size": torch.Size([2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        (1, 2): 1 << 70,
        "big": -(1 << 70),
    }
    torch.save({"state_dict": model.state_dict(), **extras}, path)
    opened = open_checkpoint(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.tensor(name), tensor)


def test_a_pickle_that_was_written_again_is_an_error(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(STATE, path)
    opened = open_checkpoint(path)
    torch.save({**STATE, "more": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match="changed by another program"):
        opened.tensor("b")
