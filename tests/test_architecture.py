"""The layout that docs/architecture.md describes: imports go one way, no file is long, no folder is large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = (ROOT, ROOT / "selfsteer")
LONGEST_FILE = 400
LARGEST_FOLDER = 0.13
"""Share of the package's lines. A folder inside another one counts by itself."""

FLOORS = """
errors sanitize language_id limits seeding confidence_intervals version
config files temp_db significance
models records templates
queries chat_template views
chat
backends principles contrast
quality runs
jobs
logprobs
losses
policy
reward
judges export
evaluation report
stages
estimate
loop
workflows
api
experimental
commands
cli
__main__
"""
"""From bottom to top: a module imports from its own folder and from lower lines."""

_MOVED = {"experimental.flex_attention": "logprobs", "backends.registry": "config"}
"""Modules that count as part of another folder: an attention kernel of `logprobs` that no GPU has run yet, and the
table of backends that recipes are checked against."""

_LEVELS = {name: level for level, line in enumerate(FLOORS.strip().splitlines()) for name in line.split()}


@cache
def _modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((ROOT / "selfsteer").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def _imports(module: str, *, types: bool = True) -> Iterator[str]:
    """Yield the modules of the package that a module imports, in functions too; ``types``: also for types alone."""
    for node in _nodes(_modules()[module], types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in _modules())
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "selfsteer":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in _modules() else str(node.module)


def _nodes(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if types or not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _nodes(child, types)


def _room(module: str) -> str:
    """Return the entry of FLOORS that a module belongs to."""
    inside = module.removeprefix("selfsteer.")
    return _MOVED.get(inside, inside.partition(".")[0])


def _upwards(module: str) -> Iterator[str]:
    own = _room(module)
    for other in map(_room, set(_imports(module))):
        if other != own and _LEVELS[other] >= _LEVELS[own]:
            yield f"{module} imports from {other}"


def test_imports_go_one_way():
    modules = [module for module in _modules() if module != "selfsteer"]
    assert {_room(module) for module in modules} == _LEVELS.keys(), "FLOORS and the folders differ"
    assert not [wrong for module in modules for wrong in _upwards(module)]


def test_no_modules_import_each_other_in_a_circle():
    modules = [module for module in _modules() if module != "selfsteer"]
    graph = {module: set(_imports(module, types=False)) - {module} for module in modules}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_page_names_every_folder_in_the_order_of_the_floors():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = [[name.strip(" `/") for name in row.split(",")] for row in rows]
    floors = [line.split() for line in FLOORS.strip().splitlines()]
    assert list(map(sorted, listed)) == list(map(sorted, floors))


def test_no_file_is_long_and_no_folder_is_large():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "selfsteer").rglob("*.py")}
    assert not {str(path): count for path, count in lines.items() if count > LONGEST_FILE}
    folders: dict[str, int] = {}
    for path, count in lines.items():
        name = str(path.relative_to(ROOT / "selfsteer").parent)
        folders[name] = folders.get(name, 0) + count
    assert not {name: count for name, count in folders.items() if count > LARGEST_FOLDER * sum(lines.values())}


_NAMED = re.compile(r"(?<![/\w])(?:[a-z_\d-]+/)+[\w-]+\.(?:py|md|yaml|jinja)\b")


def test_the_files_that_the_docs_name_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {(page.name, name) for page in pages for name in _NAMED.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 50
    wrong = [(page, name) for page, name in named if not any((place / name).is_file() for place in PLACES)]
    assert not [one for one in wrong if not one[1].startswith("runs/")]
