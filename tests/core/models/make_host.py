"""Models as hosts hold them: nested modules of inference tensors, under the hosts' names."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def as_module(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Nested modules that hold clones of these tensors, made as ComfyUI and Forge make theirs."""
    with torch.inference_mode():
        root = nn.Module().eval()
        for name, tensor in tensors.items():
            *path, own = name.split(".")
            module = root
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module().eval())
                module = module.get_submodule(part)
            module.register_parameter(own, nn.Parameter(tensor.clone(), requires_grad=False))
    return root


def webui(tensors: Mapping[str, Tensor]) -> nn.Module:
    """As `shared.sd_model`: text encoders and their token embeddings behind the hijack's own."""
    renamed = {}
    for name, tensor in tensors.items():
        for prefix in ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1."):
            if name.startswith(prefix):
                inner = name.removeprefix(prefix)
                inner = inner.replace("token_embedding.", "token_embedding.wrapped.")
                name = f"{prefix}wrapped.{inner}"
        renamed[name] = tensor
    return as_module(renamed)


def comfy(tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """`diffusion_model`, `first_stage_model` and the encoders' holder, in transformers' names."""
    if any(name.startswith("conditioner.") for name in tensors):
        prefixes = {"clip_l": "conditioner.embedders.0.", "clip_g": "conditioner.embedders.1."}
    elif any(name.startswith("cond_stage_model.model.") for name in tensors):
        prefixes = {"clip_h": "cond_stage_model."}
    else:
        prefixes = {"clip_l": "cond_stage_model."}
    clips = {"logit_scale": torch.ones(())}
    for name, prefix in prefixes.items():
        for own, tensor in _transformers(_under(tensors, prefix)).items():
            clips[f"{name}.{own}"] = tensor
    return {
        "diffusion_model": as_module(_under(tensors, UNET)),
        "first_stage_model": as_module(_under(tensors, VAE)),
        "clips": as_module(clips),
    }


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _transformers(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder of open_clip's layout in the other one, which some hosts convert to."""
    renamed = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    ends = {
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    found = {}
    for name, tensor in encoder.items():
        inner = name.removeprefix("model.")
        if name == inner:  # transformers' already
            found[name] = tensor
        elif inner in ends:
            found[f"transformer.text_model.{ends[inner]}"] = tensor
        elif inner == "text_projection":
            found["transformer.text_projection.weight"] = tensor.t()
        elif ".in_proj_" in inner:
            layer = inner.split(".")[2]
            kind = inner.rpartition("_")[2]
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                own = f"encoder.layers.{layer}.self_attn.{letter}_proj.{kind}"
                found[f"transformer.text_model.{own}"] = third
        elif inner.startswith("transformer.resblocks."):
            layer, _, rest = inner.removeprefix("transformer.resblocks.").partition(".")
            module, _, kind = rest.rpartition(".")
            own = f"encoder.layers.{layer}.{renamed[module]}.{kind}"
            found[f"transformer.text_model.{own}"] = tensor
    return found


def snapshot(host: nn.Module) -> Callable[[], bool]:
    """Copy every byte of a host's model; the function tells whether it is still the same."""
    before = {name: (t, _bytes(t).clone()) for name, t in host.state_dict(keep_vars=True).items()}

    def is_same() -> bool:
        now = host.state_dict(keep_vars=True)
        return now.keys() == before.keys() and all(
            now[name] is tensor and torch.equal(_bytes(tensor), data)
            for name, (tensor, data) in before.items()
        )

    return is_same


def _bytes(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.detach().reshape(-1).view(torch.uint8)
