"""Block weights in prompts, <lora:name:1:lbw=NOFACE>, for the WebUI and Forge.

The lora-block-weight extension does the same; where it is installed, it has the word.
"""

# pyright: reportMissingImports=false

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modules import scripts

from ...core.errors import ConfigError, FileError
from ...core.session import BlockWeights, Strength, read_tag, write_tag
from ..register import the_desk
from ..words import Words
from .webui_common import lora_extension

TAG = "lbw"
_OTHER = "lora_block_weight"  # in the name of that extension's script
_MARK = "lora_loop_block_weights"  # on a host's network: the weights that its layers are scaled by
_SCALES = "lora_loop_scales"  # on a host's network: its layers' own scales
_STALE = ("lora-loop",)  # no LoRA's names, so that the host merges a layer anew
_KINDS = ("lora", "lyco")
_WRITTEN = re.compile(r"<(?:lora|lyco):[^<>]+>")
# The host takes a tag apart at every colon, and its parts at every "="; we read both widths.
_WIDE = {ord(":"): "：", ord("="): "＝"}  # noqa: RUF001
_NARROW = {ord("："): ":", ord("＝"): "="}  # noqa: RUF001


class TagWeights(scripts.Script):
    """Runs with every picture; does nothing without a tag."""

    def title(self) -> str:
        """Name the script, which shows nothing."""
        return "LoRA Loop: block weights in prompts"

    def show(self, is_img2img: bool) -> object:  # noqa: ARG002 - the host's signature
        """Run always."""
        return scripts.AlwaysVisible

    def before_process_batch(self, p: Any, *_arguments: Any, **_named: Any) -> None:
        """Write this batch's tags so that the host can read them, which it does next."""
        if _is_others():
            return
        family, presets = _family(p), _presets(p)
        p.prompts[:] = [readable(prompt, family, presets) for prompt in p.prompts]
        if getattr(p, "all_hr_prompts", None):  # those of the second pass of a larger picture
            p.all_hr_prompts[:] = [readable(text, family, presets) for text in p.all_hr_prompts]

    def process_batch(self, p: Any, *_arguments: Any, **_named: Any) -> None:
        """Scale the LoRAs of this batch, which the host has read and not yet merged."""
        extension = lora_extension()
        if extension is None or _is_others():
            return
        tags = dict(_tags(p))
        if hasattr(p.sd_model, "forge_objects"):
            _scale_patches(p.sd_model, _by_file(extension, tags))
        else:
            scale_networks(extension.loaded_networks, tags)


def _is_others() -> bool:
    return any(_OTHER in data.path for data in scripts.scripts_data)


def _family(p: Any) -> str:
    return "sdxl" if p.sd_model.is_sdxl else "sd1"


def _presets(p: Any) -> Mapping[str, str]:
    """The presets that users have saved on the Blocks page."""
    try:
        return the_desk().presets.presets()
    except FileError as error:
        p.comment(str(error))
        return {}


def readable(prompt: str, family: str, presets: Mapping[str, str]) -> str:
    """A prompt whose tags with block weights are as the host reads them: numbers, then names.

    What is no block weights of ours is left as it is.
    """

    def written(found: re.Match[str]) -> str:
        try:
            tag = read_tag(found[0])
            tag.strength(family, seed=0, presets=presets)
        except ConfigError:
            return found[0]
        if not (tag.weights or tag.elements):
            return found[0]
        weights, elements = tag.weights.translate(_WIDE), tag.elements.translate(_WIDE)
        return write_tag(replace(tag, weights=weights, elements=elements))

    return _WRITTEN.sub(written, prompt)


def _tags(p: Any) -> Iterator[tuple[str, BlockWeights]]:
    """The weights by the name in the prompt; what can't be done is told under the picture."""
    family, presets = _family(p), _presets(p)
    data = p.extra_network_data or {}
    for params in (params for kind in _KINDS for params in data.get(kind, [])):
        name, *parts = map(str, params.items)
        text = ":".join((name, *map(_narrowed, parts)))
        if "@" in text.removeprefix(name):
            continue  # strengths that change by step, which are another extension's
        try:
            tag = read_tag(f"<lora:{text}>")
            strength = tag.strength(family, seed=p.seeds[0], presets=presets)
        except ConfigError as error:
            p.comment(f"<lora:{text}>: {error}")
            continue
        for comment in _left_out(text, strength):
            p.comment(comment)
        if strength.block_weights is not None:
            yield name, strength.block_weights


def _narrowed(part: str) -> str:
    """A part as it was before it was widened; other values the parser reads in either width."""
    return part.translate(_NARROW) if part.startswith("lbwe=") else part


def _left_out(text: str, strength: Strength) -> Sequence[str]:
    """What of a tag can't be done with the scales of the host's layers."""
    if strength.window is None:
        return ()
    say = Words(the_desk().host.language())
    told = say(
        "start, stop and step can't be done here: this LoRA acted in every step. The extension "
        "sd-webui-lora-block-weight can; where it is installed, it reads the tags",
        "此处不支持 start、stop、step：该 LoRA 在每一步都起作用。安装 sd-webui-lora-block-weight "
        "扩展后由其读取标签即可支持",
    )
    return (f"<lora:{text}>: {told}",)


def scale_networks(networks: Iterable[Any], tags: Mapping[str, BlockWeights]) -> None:
    """Scale the WebUI's networks, each layer by what its tag says of it; back to 1 without one."""
    for network in networks:
        weights = tags.get(network.mentioned_name)
        text = weights.text() if weights else ""
        if getattr(network, _MARK, "") == text:
            continue
        setattr(network, _MARK, text)
        own = vars(network).setdefault(
            _SCALES, {name: module.scale for name, module in network.modules.items()}
        )
        for name, module in network.modules.items():
            module.scale = own[name]
            if weights is not None:
                key = module.network_key.partition(".")[0]
                module.scale = module.calc_scale() * weights.ratio_of(key)
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
    """Forge's patches, by (file, ...) and layer, their strengths times their layer's ratio.

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
            ratio = weights.ratio_of(_path(layer))
            own[layer] = [[ratio * strength, *others] for strength, *others in layer_patches]
        scaled[(f"{file} {TAG}={weights.text()}", *rest)] = own
    return scaled


def _path(name: str) -> str:
    """The path of one of Forge's layers: of the U-Net in LDM's names, else of a text encoder."""
    prefix = "diffusion_model."
    if name.startswith(prefix):
        return f"unet.{name.removeprefix(prefix).removesuffix('.weight')}"
    encoder, _, inside = name.partition(".transformer.")
    number = "_2" if encoder == "clip_g" else ""
    return f"text_encoder{number}.{inside.removesuffix('.weight')}"
