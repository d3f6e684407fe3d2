"""CaptionDataset by rules alone: no model is at hand in these tests."""

import pytest

from lora_loop.comfy_nodes.caption_nodes import CaptionDataset, CaptionerOptions, caption_config
from lora_loop.comfy_nodes.dataset_nodes import LoadDataset
from lora_loop.core.errors import CheckpointError, ConfigError

from .conftest import defaults


@pytest.fixture
def dataset(pictures):
    widgets = {**defaults(LoadDataset), "folder": "momo"}
    return LoadDataset().load(**widgets)["result"][0]


def write(dataset, **changes):
    widgets = {**defaults(CaptionDataset), "captioner": "none", **changes}
    return CaptionDataset().write(dataset, **widgets)["result"]


def test_rules_write_captions_and_the_trigger_travels_on(host, dataset, pictures):
    captioned, report = write(dataset, trigger="m0m0", remove="momo")
    assert captioned.trigger == "m0m0"
    assert captioned.config == dataset.config
    assert "4 captions written" in report
    assert (pictures / "0.txt").read_text(encoding="utf-8").strip() == "m0m0, picture 0"


def test_a_dry_run_shows_the_difference_and_writes_nothing(host, dataset, pictures):
    _, report = write(dataset, trigger="m0m0", dry_run=True)
    assert "+m0m0, momo, picture 0" in report
    assert (pictures / "0.txt").read_text(encoding="utf-8").strip() == "momo, picture 0"


def test_options_reach_the_models(host, dataset):
    options = CaptionerOptions().gather(general_threshold=0.5, beams=2, blip_seed=9)[0]
    config = caption_config(dataset, options, {"captioner": "wd14"})
    assert config.tagger.general_threshold == 0.5
    assert (config.blip.beams, config.blip.seed) == (2, 9)


def test_a_missing_model_and_a_wrong_rule_are_named(host, dataset):
    with pytest.raises(CheckpointError, match="no such wd14 model"):
        write(dataset, captioner="wd14")
    with pytest.raises(ConfigError, match=r"rules\.replace"):
        write(dataset, replace="no arrow")


def test_cancel_is_handed_on(host, dataset):
    host.cancel_after = host.asked
    with pytest.raises(host.cancelled):
        write(dataset, trigger="m0m0")
