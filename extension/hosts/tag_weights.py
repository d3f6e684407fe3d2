"""Block weights in prompts, <lora:name:1:lbw=NOFACE>, for the WebUI and Forge.

The lora-block-weight extension does the same; where it is installed, it has the word.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterable, Mapping
from typing import Any

from modules import scripts

from ...core.errors import ConfigError
from ...core.session import BlockWeights, block_of
from .webui_common import lora_extension

TAG = "lbw"
_OTHER = "lora_block_weight"  # in the name of that extension's script
_MARK = "lora_loop_block_weights"  # on a host's network: the weights that its layers are scaled by
_SCALES = "lora_loop_scales"  # on a host's network: its layers' own scales
_STALE = ("lora-loop",)  # no LoRA's names, so that the host merges a layer anew


class TagWeights(scripts.Script):
    """Runs with every picture; does nothing without a tag."""

    def title(self) -> str:
        """Name the script, which shows nothing."""
        return "LoRA Loop: block weights in prompts"

    def show(self, is_img2img: bool) -> object:  # noqa: ARG002 - the host's signature
        """Run always."""
        return scripts.AlwaysVisible

    def process_batch(self, p: Any, *_arguments: Any, **_named: Any) -> None:
        """Scale the LoRAs of this batch, which the host has read and not yet merged."""
        if any(_OTHER in data.path for data in scripts.scripts_data):
            return
        extension = lora_extension()
        if extension is None:
            return
        tags = self._tags(p)
        if hasattr(p.sd_model, "forge_objects"):
            _scale_patches(p.sd_model, _by_file(extension, tags))
        else:
            scale_networks(extension.loaded_networks, tags)

    def _tags(self, p: Any) -> dict[str, BlockWeights]:
        """The weights by the name in the prompt; what can't be read is told under the picture."""
        found: dict[str, BlockWeights] = {}
        family = "sdxl" if p.sd_model.is_sdxl else "sd1"
        for params in (p.extra_network_data or {}).get("lora", []):
            text = params.named.get(TAG)
            if text is None or not params.positional:
                continue
            try:
                found[params.positional[0]] = BlockWeights.parse(text, family, seed=p.seeds[0])
            except ConfigError as error:
                p.comment(f"{TAG}={text}: {error}")
        return found


def scale_networks(networks: Iterable[Any], tags: Mapping[str, BlockWeights]) -> None:
    """Scale each layer of the WebUI's networks by its block's weight; back to 1 without a tag."""
    for network in networks:
        weights = tags.get(network.mentioned_name)
        text = weights.text() if weights else ""
        if getattr(network, _MARK, "") == text:
            continue
        setattr(network, _MARK, text)
        own = vars(network).setdefault(
            _SCALES, {key: module.scale for key, module in network.modules.items()}
        )
        for key, module in network.modules.items():
            module.scale = own[key]
            if weights is not None:
                module.scale = module.calc_scale() * weights.ratio(
                    block_of(module.network_key.partition(".")[0])
                )
            layer = module.sd_module
            if getattr(layer, "network_weights_backup", None) is not None:
                layer.network_current_names = _STALE


def _by_file(extension: Any, tags: Mapping[str, BlockWeights]) -> dict[str, BlockWeights]:
    loaded = extension.loaded_networks
    return {
        network.network_on_disk.filename: tags[network.mentioned_name]
        for network in loaded
        if network.mentioned_name in tags
    }


def _scale_patches(model: Any, by_file: Mapping[str, BlockWeights]) -> None:
    """Give Forge's model clones of its patchers, with the strengths of their patches scaled."""
    if not by_file:
        return
    objects = model.forge_objects
    unet, clip = objects.unet.clone(), objects.clip.clone()
    unet.lora_patches = scaled_patches(unet.lora_patches, by_file)
    clip.patcher.lora_patches = scaled_patches(clip.patcher.lora_patches, by_file)
    objects.unet, objects.clip = unet, clip
    # the second pass of a larger picture begins with these; the next picture must not
    model.forge_objects_after_applying_lora = objects.shallow_copy()
    model.current_lora_hash = TAG


def scaled_patches(
    patches: Mapping[tuple[Any, ...], Mapping[str, list[list[Any]]]],
    by_file: Mapping[str, BlockWeights],
) -> dict[tuple[Any, ...], Mapping[str, list[list[Any]]]]:
    """Forge's patches, by (file, ...) and layer, their strengths times their block's weight.

    The file's name is part of what Forge compares to see whether it has merged them already.
    """
    scaled: dict[tuple[Any, ...], Mapping[str, list[list[Any]]]] = {}
    for (file, *rest), layers in patches.items():
        weights = by_file.get(file)
        if weights is None:
            scaled[(file, *rest)] = layers
            continue
        own = {}
        for layer, layer_patches in layers.items():
            ratio = weights.ratio(_block_of_layer(layer))
            own[layer] = [[ratio * strength, *others] for strength, *others in layer_patches]
        scaled[(f"{file} {TAG}={weights.text()}", *rest)] = own
    return scaled


def _block_of_layer(name: str) -> str | None:
    """The block of one of Forge's layers: of the U-Net in LDM's names, else of a text encoder."""
    prefix = "diffusion_model."
    if not name.startswith(prefix):
        return "BASE"
    return block_of(f"unet.{name.removeprefix(prefix)}")
