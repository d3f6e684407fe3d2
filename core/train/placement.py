"""Borrowing modules for a while: their device and their checkpointing mode, put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """`module` on `device` for the length of the block, then back to where it was."""
    before = next(module.parameters()).device
    if before == device:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(before)
        if device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def gradient_checkpointing(modules: list[nn.Module], enabled: bool) -> Iterator[None]:
    """Keep only the inputs of blocks and compute the rest again in the backward pass.

    About a fifth slower, for a fraction of the activation memory. diffusers and transformers
    checkpoint only in training mode; these models hold no dropout, so the mode changes nothing
    else. Both are put back.
    """
    if not enabled:
        yield
        return
    modes = [module.training for module in modules]
    hooks = []
    try:
        hooks = [_inputs_with_gradient(module) for module in modules]
        for module in modules:
            _switch(module, on=True)
            module.train()
        yield
    finally:
        for hook in hooks:
            if hook is not None:
                hook.remove()
        for module, mode in zip(modules, modes, strict=True):
            _switch(module, on=False)
            module.train(mode)


def _inputs_with_gradient(module: nn.Module) -> RemovableHandle | None:
    """Older transformers drop the gradients of a checkpointed block whose input needs none."""
    embeddings = getattr(module, "get_input_embeddings", lambda: None)()
    if embeddings is None:
        return None
    return embeddings.register_forward_hook(lambda _m, _i, output: output.requires_grad_(True))


def _switch(module: nn.Module, *, on: bool) -> None:
    """diffusers and transformers name the same switch differently."""
    for names in (
        ("enable_gradient_checkpointing", "disable_gradient_checkpointing"),
        ("activation_checkpointing_enable", "activation_checkpointing_disable"),
        ("gradient_checkpointing_enable", "gradient_checkpointing_disable"),
    ):
        switch = getattr(module, names[0 if on else 1], None)
        if switch is not None:
            switch()
            return
