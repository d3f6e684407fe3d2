import pytest
import torch

from lora_loop.core.errors import ConfigError
from lora_loop.core.train.precision import PRECISIONS, make_scaler, resolve_precision

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_fp32():
    assert resolve_precision("auto", CPU) is PRECISIONS["fp32"]
    assert resolve_precision("bf16", CPU).compute == torch.bfloat16


def test_fp16_on_a_cpu_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"memory\.precision.*fp32 or bf16"):
        resolve_precision("fp16", CPU)


def test_a_scaler_without_scaling_leaves_the_loss_alone():
    scaler = make_scaler(PRECISIONS["fp32"], CPU)
    loss = torch.tensor(0.37)
    assert scaler.scale(loss) is loss
