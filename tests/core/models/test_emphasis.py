"""Weighted captions; the weights are worked out by hand."""

import re
import time

import pytest

from lora_loop.core.models.emphasis import LARGEST, Span, parse_emphasis

DOWN = 1 / 1.1


def check(caption: str, *wanted: tuple[str, float]) -> None:
    spans = parse_emphasis(caption)
    assert [span.text for span in spans] == [text for text, _ in wanted]
    assert [span.weight for span in spans] == pytest.approx([weight for _, weight in wanted])


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("", []),
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("a (cat:1.3), [dog]", [("a ", 1), ("cat", 1.3), (", ", 1), ("dog", DOWN)]),
        ("((((cat))))", [("cat", 1.4641)]),
        ("((cat:2) and [[dog]]:3)", [("cat", 6), (" and ", 3), ("dog", 3 * DOWN * DOWN)]),
        ("(one)(two)", [("onetwo", 1.1)]),
        ("(cat:0.5) (dog:-1) (cow:+.5) (eel:2.)", None),
        ("(cat: 1.5 )", [("cat", 1.5)]),
        ("[cat:1.5]", [("cat:1.5", DOWN)]),  # a number is for round brackets
        ("a:b (c:d:2)", [("a:b ", 1), ("c:d", 2)]),
        ("(a\nb:2)", [("a\nb", 2)]),
        ("()[](:3)", []),
    ],
)
def test_weights_by_hand(caption, wanted):
    if wanted is None:
        wanted = [("cat", 0.5), (" ", 1), ("dog", -1), (" ", 1), ("cow", 0.5), (" ", 1), ("eel", 2)]
    check(caption, *wanted)


def test_the_webuis_own_example():
    check(
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        ("a ", 1),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    )


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        (r"\(literal\]", [("(literal]", 1)]),
        (r"cat \(animal\), (\)x\(:2)", [("cat (animal), ", 1), (")x(", 2)]),
        (r"a\\(b)", [("a\\", 1), ("b", 1.1)]),
        (r"a\b", [("ab", 1)]),  # before anything else the backslash disappears
        ("a\\", [("a", 1)]),
    ],
)
def test_a_backslash_makes_brackets_literal(caption, wanted):
    check(caption, *wanted)


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("((a) b", [("a", 1.21), (" b", 1.1)]),
        ("[a (b", [("a ", DOWN), ("b", 1)]),
        ("a) b] c", [("a) b] c", 1)]),
        ("a:1.5) b", [("a:1.5) b", 1)]),
        (":)", [(":)", 1)]),
        ("(a [b) c] d", [("a ", 1.1), ("b", 1.1 * DOWN), (" c", DOWN), (" d", 1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),  # no number, so it is text
        ("(a:.)(b:)(c:x)", [("a:.b:c:x", 1.1)]),
        ("(a:1e3)", [("a:1e3", 1.1)]),
        ("(a:1.5", [("a:1.5", 1.1)]),
        (")(", [(")", 1)]),
    ],
)
def test_odd_brackets_do_not_fail(caption, wanted):
    check(caption, *wanted)


def test_weights_stay_finite():
    assert parse_emphasis("(" * 100_000 + "cat") == [Span("cat", LARGEST)]
    assert parse_emphasis("[" * 100_000 + "cat") == [Span("cat", pytest.approx(0))]
    assert parse_emphasis(f"(cat:{'9' * 400})") == [Span("cat", LARGEST)]
    assert parse_emphasis(f"(cat:-{'9' * 400})") == [Span("cat", -LARGEST)]
    assert parse_emphasis("(" * 100_000 + "(cat:0)") == [Span("cat", 0)]


@pytest.mark.parametrize(
    "text",
    [
        "(",
        ")",
        "[",
        "(a",
        "(a)",
        "(a:1)",
        "[a(b",
        ":",
        ":1",
        ": ",
        "\\",
        "a",
        "(a:1.1)b",
        "(:",
        "])",
    ],
)
def test_time_grows_with_the_length_alone(text):
    start = time.process_time()
    spans = parse_emphasis(text * 50_000)
    # a product over the pieces of every bracket pair would take minutes
    assert time.process_time() - start < 5
    assert sum(len(span.text) for span in spans) <= len(text) * 50_000


def test_text_without_markup_is_kept():
    caption = "1girl, a\u0301 猫 \ud83d half, 3,000.50 €: <lora>\n{x|y}"
    assert parse_emphasis(caption) == [Span(caption, 1.0)]
    assert not re.search(r"[()\[\]\\]", caption)
