"""Elements: ratios for kinds of layers inside blocks, which run after the blocks' own.

A rule is written BLOCKS:ELEMENTS:RATIO as in the lora-block-weight extension, several of them with
commas between: blocks and elements are separated by spaces, a leading NOT inverts either list, an
empty list means all, and an element is any part of a layer's name ("attn2", "ff", "to_k"). Names
are those of the original code (`input_blocks.4.1...attn1.to_q`, `in_layers.2`), followed by the
block's. The last rule that matches counts.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from .blocks import BASE, block_of, in_order, select_blocks

_PLACE = re.compile(
    r"(?:lora_)?unet_(?:(?:down|up)_blocks_\d+_|mid_block_)"
    r"(resnets|attentions|downsamplers|upsamplers)_(\d+)_(.+)"
)
_SLOTS = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}
_INSIDE = {
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
}
_ENDS = {
    "conv_in": "input_blocks_0_0",
    "conv_norm_out": "out_0",
    "conv_out": "out_2",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
    "add_embedding_linear_1": "label_emb_0_0",
    "add_embedding_linear_2": "label_emb_0_2",
}
_OPEN_CLIP = {"mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj", "self_attn": "attn"}


@dataclass(frozen=True, slots=True)
class ElementRule:
    """A ratio for the layers whose name holds one of `elements`, in one of `blocks`.

    An empty list is all of them. Inverted ones mean the layers that are not meant; of blocks those
    in no block as well.
    """

    blocks: frozenset[str]
    elements: tuple[str, ...]
    ratio: float
    other_blocks: bool = False
    other_elements: bool = False

    def text(self) -> str:
        """Return the rule as it is written."""
        blocks = ("NOT",) * self.other_blocks + in_order(self.blocks)
        elements = ("NOT",) * self.other_elements + self.elements
        return f"{' '.join(blocks)}:{' '.join(elements)}:{self.ratio:g}"

    def matches(self, block: str | None, name: str) -> bool:
        """Whether a layer of this block and element name is meant."""
        if self.blocks and (block in self.blocks) == self.other_blocks:
            return False
        if not self.elements:
            return True
        return any(element in name for element in self.elements) != self.other_elements


def read_rules(
    text: str, every: Sequence[str], number: Callable[[str, str], float]
) -> tuple[ElementRule, ...]:
    """Read BLOCKS:ELEMENTS:RATIO[,...], or lines of them. every: the model's blocks in order.

    number(text, where): reads a ratio. ConfigError says which rule is wrong.
    """
    rules = []
    for part in re.split(r"[,\n]", text):
        if not part.strip():
            continue
        fields = part.strip().split(":")
        if len(fields) != 3:
            raise ConfigError(
                f"block weights: element rule {part.strip()!r} is not of the form "
                "BLOCKS:ELEMENTS:RATIO, as in OUT03-OUT05:attn1 ff:0.5"
            )
        value = number(fields[2].strip(), f"block weights: element rule {part.strip()!r}")
        (blocks, other_blocks), (elements, other_elements) = map(_words, fields[:2])
        chosen = frozenset(select_blocks(blocks, every)) if blocks else frozenset()
        rules.append(ElementRule(chosen, elements, value, other_blocks, other_elements))
    return tuple(rules)


def _words(text: str) -> tuple[tuple[str, ...], bool]:
    """The words of a list, and whether a leading NOT inverts it."""
    words = tuple(text.split())
    inverted = words[:1] == ("NOT",)
    return words[inverted:], inverted


def ratio_of(rules: Iterable[ElementRule], path: str, otherwise: float) -> float:
    """Return the ratio of a layer by path or key: the last matching rule's, or `otherwise`."""
    block, name = block_of(path), element_name(path)
    for rule in rules:
        if rule.matches(block, name):
            otherwise = rule.ratio
    return otherwise


def element_name(path: str) -> str:
    """Return the name that elements are looked up in, of a path or kohya key.

    "unet.down_blocks.0.resnets.0.conv1" -> "input_blocks_1_0_in_layers_2IN01". The extension has
    "diffusion_model_" before it, so that its "ff" means every layer of the U-Net; ours does not.
    """
    flat = path.replace(".", "_")
    block = block_of(path) or ""
    if block == BASE:
        return _text_name(flat) + block
    return _unet_name(flat, block) + block


def _unet_name(flat: str, block: str) -> str:
    inside = re.sub(r"^(?:lora_)?unet_", "", flat)
    place = _PLACE.fullmatch(flat)
    if place is None:
        return _ENDS.get(inside, inside)
    kind, index, rest = place[1], int(place[2]), place[3]
    if kind == "resnets":
        rest = _INSIDE.get(rest, rest)
    elif kind == "downsamplers":
        rest = "op"
    if block == "M00":
        return f"middle_block_{1 if kind == 'attentions' else 2 * index}_{rest}"
    side = "input" if block.startswith("IN") else "output"
    return f"{side}_blocks_{int(block.lstrip('INOUT'))}_{_SLOTS[kind]}_{rest}"


def _text_name(flat: str) -> str:
    name = re.sub(r"^(?:lora_)?(?:te\d?|text_encoder(?:_\d)?)_", "", flat)
    if re.match(r"(?:lora_)?(?:te2|text_encoder_2)_", flat):
        name = name.replace("text_model_encoder_layers", "model_transformer_resblocks")
        for clip, open_clip in _OPEN_CLIP.items():
            name = name.replace(clip, open_clip)
        return name
    return f"transformer_{name}"
