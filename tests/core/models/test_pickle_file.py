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
    path = tmp_path / "model.ckpt"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("\u0080\u0002 pickle")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"code"))
    raw = bytearray(path.read_bytes())
    raw[:1] = b"\x80"
    checksum = sum(raw[:148]) + sum(raw[156:512]) + 8 * 32
    raw[148:156] = f"{checksum:06o}\0 ".encode()
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="tar archive"):
        open_checkpoint(path)


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
