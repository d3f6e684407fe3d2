"""Strengths of single layers against those that the lora-block-weight extension computes.

The numbers were made by the extension's own `lbw` (commit b403cb7) on modules of LoRA, LoHa, LoKr
and full weights, under the names that the WebUI 1.10 gives them. What differs by design:

- DoRA and IA3: the extension scales one factor, so that DoRA at 0 still rescales the layer; here a
  ratio multiplies the final delta, and 0 is off.
- "ff" as an element: the extension looks into "diffusion_model_...", where every layer of the U-Net
  has it; here it means the feed-forward layers.
- Elements of the text encoder of SD2, whose layers have open_clip's names there.
- Ranges that run backwards are turned round there; here they are refused, with the right one.
- `lbwe=` takes only the name of an entry there, and here the rules themselves too.
- Flux: its IN is every key that holds "_in" there; it is not drawn with here yet.
"""

import json
from pathlib import Path

import pytest

from lora_loop.core.adapters.block_weights import BlockWeights

GOLDEN = json.loads((Path(__file__).parent / "lora_block_weight.json").read_text())


@pytest.mark.parametrize("family", GOLDEN)
def test_every_layer_gets_the_extensions_ratio(family: str) -> None:
    keys, cases = GOLDEN[family]["keys"], GOLDEN[family]["cases"]
    assert len(cases) == 50
    for case in cases:
        weights = BlockWeights.parse(case["weights"], family)
        found = [weights.ratio_of(key) for key in keys]
        assert found == pytest.approx(case["ratios"], abs=1e-4), case["weights"]


def test_a_feed_forward_rule_means_feed_forward_layers() -> None:
    weights = BlockWeights.parse("ALL; :ff:0")
    keys = GOLDEN["sd1"]["keys"]
    off = {key for key in keys if weights.ratio_of(key) == 0}
    assert off == {key for key in keys if "_ff_" in key} != set()
