"""The house's rules on imports, read from the source of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {"install.py", "host_packages.py", "noxfile.py", "setup.py"}
SKIPPED = {"tests", "bench", "build", "dist"}
HOSTS = frozenset({"gradio", "modules", "modules_forge", "ldm", "comfy", "folder_paths", "nodes"})

SHARED = frozenset({"session", "config", "events", "errors"})  # what hosts may import of the core

# Words that ask or change the world when a module's constants are made of them.
EFFECTS = frozenset({"environ", "getenv", "urlopen", "open", "is_available", "cuda", "backends"})

# From the bottom up; what stands on one level does not import its neighbours.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "events", "log", "randomness"}),
    frozenset({"config"}),
    frozenset({"diffusion", "adapters", "data", "captioning", "files"}),
    frozenset({"models"}),
    frozenset({"train", "preview", "captions", "keep"}),
    frozenset({"planner"}),
    frozenset({"workbench", "graphwork", "study", "outputs"}),
    frozenset({"session"}),
    frozenset({"demo"}),
    frozenset({"cli"}),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def sources() -> list[Path]:
    """Every Python file of the package, relative to the root."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(
        path for path in found if path.parts[0] not in SKIPPED and not path.parts[0].startswith(".")
    )


def broken_rules(path: Path, source: str) -> list[str]:
    """What the file at `path`, relative to the root, does against the rules; one line each."""
    tree = ast.parse(source)
    if (
        path.name in ("install.py", "host_packages.py", "noxfile.py", "setup.py")
        and len(path.parts) == 1
    ):
        return []  # scripts that run outside the package
    if path.parts[0] == "scripts":
        return []  # the WebUI runs them by their path, to have an effect
    return [*broken_imports(path, tree), *effects_of_importing(tree)]


def broken_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from broken_absolute(path, name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from broken_absolute(path, node.module or "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for target in relative_targets(path, node):
                yield from broken_relative(path, target, node.lineno)


def broken_absolute(path: Path, module: str, line: int) -> Iterator[str]:
    top = module.partition(".")[0]
    if top in ("lora_loop", "core", "extension", "comfy_nodes"):
        yield f"{path}:{line}: imports {module} absolutely; only relative imports"
    if path.parts[0] == "core" and top in HOSTS:
        yield f"{path}:{line}: the core imports the host's {module}"


def relative_targets(path: Path, node: ast.ImportFrom) -> Iterator[tuple[str, ...]]:
    """What a relative import names, as parts from the root: ("core", "config", "Recipe")."""
    package = path.parent.parts
    base = package[: len(package) - (node.level - 1)]
    module = tuple(node.module.split(".")) if node.module else ()
    for name in node.names:
        yield (*base, *module, name.name)


def broken_relative(path: Path, target: tuple[str, ...], line: int) -> Iterator[str]:
    where = f"{path}:{line}: imports {'.'.join(target)}"
    here, there = path.parts[0], target[0]
    if here == "core" and there in ("extension", "comfy_nodes"):
        yield f"{where}; the core knows no host"
    if {here, there} == {"extension", "comfy_nodes"}:
        yield f"{where}; the hosts do not know each other"
    if there != "core" or len(target) < 2:
        return
    if here in ("extension", "comfy_nodes") and target[1] not in SHARED:
        yield f"{where}; hosts come in through the session"
    if here == "core":
        yield from broken_order(Path(path.parts[1]).stem, target[1], where)


def broken_order(room: str, used: str, where: str) -> Iterator[str]:
    if room in (used, "__init__"):
        return
    for name in (room, used):
        if name not in LEVEL_OF:
            yield f"{where}; the room {name} has no level"
            return
    if LEVEL_OF[used] > LEVEL_OF[room]:
        yield f"{where}; {used} lies above {room}"
    elif LEVEL_OF[used] == LEVEL_OF[room] and LEVEL_OF[room] > 0:
        yield f"{where}; {used} is a neighbour of {room}"


def effects_of_importing(tree: ast.Module) -> Iterator[str]:
    """Module-level statements that do more than define."""
    for node in tree.body:
        if not defines_only(node):
            yield f"line {node.lineno}: importing has an effect: {ast.unparse(node)[:60]}"


def defines_only(node: ast.stmt) -> bool:
    if isinstance(
        node,
        (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    ):
        return True
    if isinstance(node, ast.Assign):
        named = all(isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets)
        return named and not asks_the_world(node.value)
    if isinstance(node, ast.AnnAssign):
        named = isinstance(node.target, ast.Name)
        return named and (node.value is None or not asks_the_world(node.value))
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If):
        is_main = ast.unparse(node.test) == "__name__ == '__main__'"
        return is_main or "TYPE_CHECKING" in ast.unparse(node.test)
    return False


def asks_the_world(value: ast.expr) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in EFFECTS)
        or (isinstance(node, ast.Name) and node.id in EFFECTS)
        for node in ast.walk(value)
    )


@pytest.mark.parametrize("path", sources(), ids=str)
def test_rules_hold(path):
    assert not broken_rules(path, (ROOT / path).read_text(encoding="utf-8"))


def test_the_tree_was_found():
    assert {Path("__init__.py"), Path("core/events.py"), Path("core/config/recipe.py")} <= {
        *sources()
    }


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("core/config/x.py", "import lora_loop.core.errors", "only relative imports"),
        ("core/config/x.py", "from core.errors import TrainerError", "only relative imports"),
        ("core/train/x.py", "import gradio as gr", "the core imports the host's gradio"),
        ("core/data/x.py", "def f():\n    from modules import shared", "the host's modules"),
        ("core/data/x.py", "from comfy.utils import load", "the host's comfy.utils"),
        ("core/config/x.py", "from ..data import scan", "data lies above config"),
        ("core/config/x.py", "from .. import data", "data lies above config"),
        ("core/log.py", "from .config import Recipe", "config lies above log"),
        ("core/planner.py", "from . import session", "session lies above planner"),
        ("core/data/x.py", "from ..files.atomic import write", "files is a neighbour of data"),
        ("core/train/a/b.py", "from ...preview import grid", "preview is a neighbour of train"),
        ("core/data/x.py", "from ..novel import thing", "the room novel has no level"),
        ("core/session.py", "from ..extension import tab", "the core knows no host"),
        ("extension/x.py", "from ..comfy_nodes import host", "do not know each other"),
        ("comfy_nodes/x.py", "from ..core.train import step", "through the session"),
        ("core/log.py", "print('hello')", "importing has an effect"),
        ("core/log.py", "import os\nos.environ['A'] = '1'", "importing has an effect"),
        ("core/log.py", "import torch\ntorch.backends.x.y = 1", "importing has an effect"),
        ("core/log.py", "import torch\nA = torch.cuda.is_available()", "importing has an effect"),
        ("core/log.py", "import os\nA: str = os.environ['A']", "importing has an effect"),
        ("core/log.py", "for i in range(3):\n    pass", "importing has an effect"),
        ("core/log.py", "try:\n    import x\nexcept ImportError:\n    x = None", "has an effect"),
    ],
)
def test_the_tester_catches(path, source, message):
    found = broken_rules(Path(path), source)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/train/x.py", "from ..data.batches import Batch\nfrom .step import take"),
        ("core/data/x.py", "from ..randomness import generator\nfrom ..config import Recipe"),
        ("core/cli/x.py", "from ... import __version__\nfrom .. import session"),
        ("core/errors.py", "from .events import Event"),
        ("comfy_nodes/x.py", "import comfy.utils\nfrom ..core.session import plan"),
        (
            "core/log.py",
            '"""Words."""\nimport logging\nlogger = logging.getLogger("x")\nA: int = 3',
        ),
        ("core/log.py", "if TYPE_CHECKING:\n    import x\nif __name__ == '__main__':\n    run()"),
        ("install.py", "import sys\nsys.path.insert(0, 'x')"),
    ],
)
def test_the_tester_lets_pass(path, source):
    assert broken_rules(Path(path), source) == []
