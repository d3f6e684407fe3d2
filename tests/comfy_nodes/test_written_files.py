"""Files that are made from the nodes: words, help pages, example workflows."""

import json
from pathlib import Path

import pytest

from lora_loop.comfy_nodes import door, examples, locales, table
from lora_loop.comfy_nodes.still_host import StillHost

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def still_host():
    door.use(StillHost())
    yield
    door.use(None)


def test_words_and_help_pages_are_those_of_the_nodes():
    for name, text in locales.files():
        written = (ROOT / name).read_text(encoding="utf-8")
        assert written == text, "run: python -m lora_loop.comfy_nodes.locales"


def test_every_word_is_there_in_both_languages():
    for language in locales.LANGUAGES:
        for name, words in locales.node_definitions(language).items():
            texts = [words["display_name"], words["description"]]
            texts += [own for item in words["inputs"].values() for own in item.values()]
            texts += [own for item in words["outputs"].values() for own in item.values()]
            assert all(texts), name


def test_examples_are_those_of_the_nodes():
    for name, text in examples.texts().items():
        written = (ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")
        assert written == text, "run: python -m lora_loop.comfy_nodes.examples"


@pytest.mark.parametrize("name", sorted(examples.EXAMPLES))
def test_an_examples_links_fit_together(name):
    flow = json.loads(examples.texts()[name])
    nodes = {node["id"]: node for node in flow["nodes"]}
    known = table.node_classes()
    for number, source, output, target, slot, kind in flow["links"]:
        assert nodes[source]["outputs"][output]["type"] == kind
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
    for node in flow["nodes"]:
        assert node["type"] in known or node["type"] in examples._NATIVE
        if node["type"] in known:
            declared = known[node["type"]].INPUT_TYPES()["required"]
            missing = [
                own["name"] for own in node["inputs"] if own["name"] in declared and not own["link"]
            ]
            assert missing == []


def test_pages_use_nothing_that_is_not_shipped():
    web = ROOT / "comfy_nodes/web"
    for script in web.glob("*.js"):
        for line in script.read_text(encoding="utf-8").splitlines():
            if line.startswith("import ") and '"./' in line:
                assert (web / line.split('"./')[1].split('"')[0]).is_file()
