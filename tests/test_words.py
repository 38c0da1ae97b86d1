"""The worst of the old dialect stays out of what users read; CONTRIBUTING.md ("Words") says what to write instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "selfsteer"

DIALECT = re.compile(
    r"\b(?:"
    r"anew|mend(?:s|ed|ing)?|whom|in force|what follows"
    r"|(?:go|goes|going|went|gone) (?:by|on)"
    r"|(?:give|gives|gave|giving|given) up"
    r"|that there (?:is|are) not"
    r"|(?:is|are|was|were|be|been) told(?! apart)|told (?:of|by|from)|tells? of"
    r"|stands? (?:there|in|beside|below|under|behind|above)"
    r"|who (?:answers|writes|wrote|judges|asks)"
    r")\b",
    re.IGNORECASE,
)

HELP = PACKAGE / "commands"
"""Their docstrings are the help."""

NOT_PROSE = {"evaluation/relevance.py"}
"""Lists of words."""


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the string literals of a module with their lines; docstrings, of attributes too, only for :data:`HELP`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        shown = path.parent == HELP or id(node) not in texts
        if shown and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)


def _found(path: Path, texts: Iterator[tuple[int, str]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r} in {text.strip()[:80]!r}"
        for line, text in texts
        for match in DIALECT.finditer(text)
    ]


def test_messages_and_help_have_none_of_the_dialect():
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if _is_checked(path.relative_to(PACKAGE))]
    assert not [one for path in paths for one in _found(path, _strings(path))]


def _is_checked(path: Path) -> bool:
    return path.as_posix() not in NOT_PROSE


def test_pages_and_recipes_have_none_of_the_dialect():
    """The templates of prompts are left out: a changed word would change what models answer."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages += sorted((ROOT / "recipes").rglob("*.yaml"))
    for folder in ("report", "export", "policy", "reward"):
        pages += sorted((PACKAGE / folder).rglob("*.jinja"))
    assert not [one for path in pages for one in _found(path, _lines(path))]


@pytest.mark.parametrize(
    "text",
    [
        "Killed anywhere, the same command goes on",
        "what a filter goes by",
        "every round was given up: what follows tells of the last one",
        "the rows are made anew",
        "mend that line",
        "a program that there is not",
    ],
)
def test_the_dialect_is_found(text):
    assert DIALECT.search(text)
