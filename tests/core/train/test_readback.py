import torch

from lora_loop.core.train.readback import LossReadback


def test_losses_come_back_in_order_and_once():
    readback = LossReadback()
    readback.push(1, torch.tensor(0.5))
    readback.push(2, torch.tensor(0.25))
    assert readback.ready() == [(1, 0.5), (2, 0.25)]
    assert readback.ready() == []
    readback.push(3, torch.tensor(1.0))
    assert readback.drain() == [(3, 1.0)]
    assert readback.drain() == []
