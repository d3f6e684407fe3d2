"""Captioning settings: strict, with the setting's name in every error."""

import json

import pytest

from lora_loop.core.config.caption import CaptionConfig, RulesConfig, caption_sections
from lora_loop.core.config.fields import describe
from lora_loop.core.config.mapping import to_mapping
from lora_loop.core.errors import ConfigError, FileError


def test_round_trip():
    config = CaptionConfig(
        captioner="blip", rules=RulesConfig(remove=["a"], replace=[r"/(x)/=>\1"], trigger="momo")
    )
    assert CaptionConfig.from_json(json.dumps(to_mapping(config))) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"captoner": "blip"}', "did you mean 'captioner'"),
        ('{"general_threshold": 0.3}', "did you mean 'tagger.general_threshold'"),
        ('{"tagger": {"general_threshold": 1.5}}', "tagger.general_threshold is 1.5"),
        ('{"blip": {"min_length": 9, "max_length": 8}}', "blip.min_length is 9"),
        ('{"rules": {"remove": ["/(/"]}}', r"rules.remove\[0\].*regular expression"),
        ('{"rules": {"remove": [" , "]}}', r"rules.remove\[0\].*must name a tag"),
        ('{"rules": {"replace": ["a"]}}', r"rules.replace\[0\].*old => new"),
        ('{"rules": {"replace": ["/a/=>\\\\2"]}}', r"rules.replace\[0\].*group"),
        ('{"rules": {"trigger": "a\\nb"}}', "rules.trigger.*one line"),
        ('{"caption_extension": "txt"}', "caption.caption_extension"),
        ('{"model": "a\\nb"}', "caption.model"),
        ('{"rules": []}', "caption.rules"),
        ('{"seed": 1, "seed": 1}', "twice"),
        ("{", "not valid JSON"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        CaptionConfig.from_json(text)


def test_a_file_names_itself_and_its_model_is_relative_to_it(tmp_path):
    path = tmp_path / "caption.json"
    with pytest.raises(FileError, match=r"caption\.json"):
        CaptionConfig.load(path)
    path.write_text('{"model": "tagger"}', encoding="utf-8")
    assert CaptionConfig.load(path).model == "tagger"
    (tmp_path / "tagger").mkdir()
    assert CaptionConfig.load(path).model == str(tmp_path / "tagger")
    path.write_text('{"model": 3}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"caption\.json.*caption\.model is 3"):
        CaptionConfig.load(path)


def test_auto_matches_words_for_sentences():
    assert CaptionConfig(captioner="blip").match == "words"
    assert CaptionConfig(captioner="wd14").match == "tags"
    assert CaptionConfig(captioner="blip", rules=RulesConfig(match="tags")).match == "tags"


def test_names_differ_between_sections():
    """The command line has them all as options."""
    names = [item.name for section in caption_sections().values() for item in describe(section)]
    assert len(names) == len(set(names))
