"""Rules on captions, one number or text worked out by hand each."""

import pytest

from lora_loop.core.captioning.rules import Rules, merge, tag_counts, tag_key
from lora_loop.core.config.caption import RulesConfig


def tags(caption, **rules):
    return Rules.of(RulesConfig(**rules), "tags").apply(caption).text


def words(caption, **rules):
    return Rules.of(RulesConfig(**rules), "words").apply(caption).text


@pytest.mark.parametrize(
    ("caption", "rules", "expected"),
    [
        ("a, b, c", {"remove": ["b"]}, "a, c"),
        ("Long_Hair, cat", {"remove": ["long hair"]}, "cat"),
        ("a, b, c, d", {"remove": ["a, c"]}, "b, d"),
        ("blue eyes, red eye, eyeliner", {"remove": ["/eyes?$/"]}, "eyeliner"),
        ("cat girl, girl", {"replace": ["girl=>woman"]}, "cat girl, woman"),
        ("a, b", {"replace": ["a=>b", "b=>c"]}, "c"),
        ("a, b", {"replace": ["a=>b", "b=>c"], "unique": False}, "c, c"),
        ("x", {"replace": ["x => y, z"]}, "y, z"),
        ("x, y", {"replace": ["x=>"]}, "y"),
        ("a => b, c", {"replace": ["a => b => d"]}, "d, c"),
        ("ganyu (genshin)", {"replace": [r"/(\w+) \((\w+)\)/ => \1, \2"]}, "ganyu, genshin"),
        ("ganyu \\(genshin\\)", {"remove": ["ganyu_(genshin)"]}, ""),
        ("smile, solo, 1girl", {"first": ["1girl", "solo"]}, "1girl, solo, smile"),
        ("b, C, a", {"sort": True}, "a, b, C"),
        ("b, a, c", {"sort": True, "first": ["c"]}, "c, a, b"),
        ("a, A, a_b, a b", {}, "a, a_b"),
        ("a,b ,  c", {}, "a,b ,  c"),  # nothing to do: not even tidied
        ("cat", {"prefix": "x, y", "suffix": "z"}, "x, y, cat, z"),
        ("cat", {"prefix": "a photo of "}, "a photo of cat"),
        ("cat", {"prefix": "momo,"}, "momo, cat"),
        ("", {"trigger": "momo", "prefix": "a "}, "momo, a"),
        ("cat, momo", {"trigger": "momo"}, "momo, cat"),
        ("cat", {"trigger": "momo", "prefix": "best"}, "momo, best, cat"),
        ("momo fan, cat", {"trigger": "momo"}, "momo, momo fan, cat"),
        ("a, b", {"suffix": "a"}, "a, b"),
    ],
)
def test_rules_on_tags(caption, rules, expected):
    once = tags(caption, **rules)
    assert once == expected
    if not rules.get("replace"):
        assert tags(once, **rules) == expected  # used twice, they change nothing more


@pytest.mark.parametrize(
    ("caption", "rules", "expected"),
    [
        ("a woman in a hat", {"replace": ["woman=>girl"]}, "a girl in a hat"),
        ("a Woman, women", {"replace": ["woman=>girl"]}, "a girl, women"),
        ("a photo  of a dog", {"remove": ["a photo of"]}, "a dog"),
        ("a dog, there is a cat, on grass", {"remove": ["there is a cat"]}, "a dog, on grass"),
        ("there is a dog", {"remove": ["/^there is /"]}, "a dog"),
        ("一个女孩在笑", {"replace": ["女孩=>momo"]}, "一个momo在笑"),
        (r"a b", {"replace": [r"a => \1"]}, r"\1 b"),  # plain text is never a template
        ("momo eats", {"trigger": "momo"}, "momo eats"),
        ("momoko eats", {"trigger": "momo"}, "momo, momoko eats"),
        ("a dog, a dog", {"sort": True}, "a dog, a dog"),  # tags alone are put in order
        ("a dog", {"prefix": "a photo of ", "trigger": "momo"}, "momo, a photo of a dog"),
    ],
)
def test_rules_on_words(caption, rules, expected):
    once = words(caption, **rules)
    assert once == expected
    if not rules.get("replace"):
        assert words(once, **rules) == expected


def test_a_rule_says_whether_it_found_something():
    rules = Rules.of(RulesConfig(remove=["a, q"], replace=["b => c", "x=>y"]), "tags")
    assert rules.apply("a, b").used == {"a, q", "b => c"}


@pytest.mark.parametrize(
    ("old", "new", "place", "expected"),
    [
        ("momo, smile,", "1girl, Smile, hat", "append", "momo, smile, 1girl, hat"),
        ("momo", "hat", "prepend", "hat, momo"),
        ("momo", "momo", "append", "momo"),
        ("", "hat", "append", "hat"),
    ],
)
def test_merging_tags_doubles_none(old, new, place, expected):
    assert merge(old, new, place, words=False) == expected
    assert merge(expected, new, place, words=False) == expected


def test_merging_sentences():
    assert merge("momo", "a cat, asleep", "append", words=True) == "momo, a cat, asleep"
    assert merge("momo, a cat, asleep", "a cat, asleep", "append", words=True) == (
        "momo, a cat, asleep"
    )


def test_tags_are_counted_once_a_caption():
    assert tag_counts(["b, a, a", "a", ""]) == {"a": 2, "b": 1}
    assert tag_key(" Long_hair ") == tag_key("long  hair")
