"""The package's regular expressions, searched for ones whose time grows with the cube of a text's length or faster."""

import importlib
import pkgutil
import re

import pytest
from regexploit.ast.sre import SreOpParser
from regexploit.redos import find

import selfsteer

# Of vLLM and its like only what is installed can be imported; those modules have no patterns of their own.
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(selfsteer.__path__, "selfsteer.")
    if not found.name.endswith(".ray_pipeline")  # it needs Ray, and has no pattern
]
PATTERNS = {
    f"{module.__name__}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
}


class Parser(SreOpParser):
    """Reads possessive repetitions, which are newer than the checker, as the greedy ones, which backtrack more."""

    from_POSSESSIVE_REPEAT = SreOpParser.from_MAX_REPEAT


def weaknesses(pattern: re.Pattern[str]) -> list[str]:
    parsed = Parser().parse_sre(pattern.pattern, pattern.flags)
    return [str(found) for found in find(parsed) if found.starriness >= 3]


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_backtracks_little(name):
    assert weaknesses(PATTERNS[name]) == []


def test_checker_finds_a_weak_pattern():
    assert weaknesses(re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL))
