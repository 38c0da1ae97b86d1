"""Any YAML value at any key of a recipe: it is read, or refused by a short message that names the key or its line."""

from __future__ import annotations

import datetime
import re
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from selfsteer.config import Growth, Recipe, SweepSettings, dump_recipe, from_values, load_recipe, load_tree
from selfsteer.errors import ConfigError, PrincipleError
from selfsteer.principles import load_set
from selfsteer.principles.principle_set import PrincipleSet
from selfsteer.quality import parse_filters
from selfsteer.reward.recipe import RewardRecipe, load_reward_recipe
from selfsteer.stages.context import with_direction
from selfsteer.workflows.sweep_variants import read_sweep

Path_ = tuple[str | int, ...]
SECONDS = 1.0


def read_whole_recipe(file: Path) -> None:
    """Read a recipe as a run does before it loads a model."""
    recipe = load_recipe(file)
    parse_filters(with_direction(recipe.quality.filters, "shorter"))
    assert from_values(Recipe, yaml.safe_load(dump_recipe(recipe))) == recipe


SET = load_set("brief").model_dump(mode="json")
REFERENCES = {"fallback": [], "few_shot": [{"query": "q", "aspects": ["Focus"]}]}
TREES: dict[str, tuple[type[BaseModel], dict[str, Any], Callable[[Path], object]]] = {
    "run": (Recipe, {}, read_whole_recipe),
    "sweep": (SweepSettings, {"recipe": "scripted", "variants": {"a": {}}, "grid": {"seed": [1]}}, read_sweep),
    "reward": (RewardRecipe, {"sets": {"a": "a.jsonl"}}, load_reward_recipe),
    "augment": (Growth, {}, lambda file: load_tree(Growth, file)),
    "principle set": (
        PrincipleSet,
        SET | REFERENCES,
        load_set,
    ),
}


def sections(annotation: Any) -> Iterator[tuple[type[BaseModel], Path_]]:
    """The sections in a type, each with what leads to it: 0 into a list, "a" into a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ()
    step: Path_ = {list: (0,), dict: ("a",)}.get(typing.get_origin(annotation), ())
    for part in typing.get_args(annotation):
        yield from ((section, step + more) for section, more in sections(part))


def keys(kind: type[BaseModel]) -> Iterator[Path_]:
    for name, field in kind.model_fields.items():
        yield (name,)
        for section, step in sections(field.annotation):
            yield from ((name, *step, *path) for path in keys(section))


def put(tree: Any, path: Path_, value: Any) -> Any:
    """The tree with a value at a path; what is on the way there is made."""
    if not path:
        return value
    first, *rest = path
    if first == 0:
        items = list(tree) if isinstance(tree, list) and tree else [None]
        return [put(items[0], tuple(rest), value), *items[1:]]
    values = dict(tree) if isinstance(tree, dict) else {}
    return values | {first: put(values.get(first), tuple(rest), value)}


def fault(kind: str, path: Path_, value: Any, file: Path) -> str:
    """What is wrong with how a value at a key is taken; "" where nothing is."""
    _, base, read = TREES[kind]
    file.write_text(yaml.safe_dump(put(base, path, value), allow_unicode=True), encoding="utf-8")
    started = time.process_time()
    try:
        read(file)
        said = None
    except (ConfigError, PrincipleError) as error:
        said = str(error)
    if (took := time.process_time() - started) > SECONDS:
        return f"it took {took:.1f} s"
    if said is None:
        return ""
    if len(said) > 2000:
        return f"a message of {len(said)} characters: {said[:300]}"
    names = [part for part in path if isinstance(part, str) and part != "a"]
    named = any(name in said for name in names) or re.search(rf"{re.escape(str(file))}:\d+\n", said)
    return "" if named else f"a message that names none of {names}, and no line: {said[:500]}"


SCALARS = [
    None, True, 0, -1, 1, 3, 10**6, 10**19, -(10**30), 10**400, 0.5, float("nan"), float("inf"), 1e308, "", "x", " ",
    "x" * 9000, "direction", "leak", "scripted", "generator", "all", "endpoint:", "endpoint:m", "program:x",
    "~nobody/x", "\u202e\x85\u2028", "on\nmore", datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 1), b"\xff",
]  # fmt: skip
COLLECTIONS: list[Any] = [
    [], {}, [None], [[]], [{}], ["x"], ["leak", "leak"], [1, "a"], [{"direction": "x"}], [{"direction": [1]}],
    [{"direction": None}], [{"direction": {"program": 5}}], [{"leak": {"ngram": 9e29}}], [{"leak": {"ngram": 10**30}}],
    [{"leak": 5}], [{"leak": {}, "empty": {}}], [{1: 2}], [{"leak": {"ngram": b"\xff"}}],
    {"direction": "x"}, {"a": 1}, {"a": {"b": {}}}, {1: 2}, {None: None}, {"a" * 5000: 1}, {"name": {}},
    {"source": [1]}, {"enable_thinking": datetime.date(2020, 1, 1)}, list(range(300)), {str(n): n for n in range(300)},
]  # fmt: skip
CASES = [(kind, path) for kind in TREES for path in dict.fromkeys(keys(TREES[kind][0]))]

VALUES = st.recursive(
    st.sampled_from(SCALARS) | st.integers() | st.floats() | st.dates() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_all_keys_are_tried():
    assert len(CASES) > 300
    assert ("run", ("quality", "filters")) in CASES and ("run", ("queries", "decontaminate", 0, "source")) in CASES
    assert ("principle set", ("aspects", 0, "direction")) in CASES and ("reward", ("sets", "a", "weight")) in CASES


@pytest.mark.parametrize("kind", TREES)
def test_every_kind_of_value_at_a_key(kind, tmp_path):
    """Three values a key, other ones at each: all of them at every key are in the slow tests."""
    found = {}
    values = [*SCALARS, *COLLECTIONS]
    for number, path in enumerate(path for one, path in CASES if one == kind):
        for value in [values[(number * 3 + place) % len(values)] for place in range(3)]:
            if said := fault(kind, path, value, tmp_path / "recipe.yaml"):
                found[path, repr(value)[:80]] = said
    assert not found


@pytest.mark.parametrize("value", [*COLLECTIONS, None, "x", 5, 1.5, b"\xff"], ids=lambda value: repr(value)[:30])
def test_any_value_as_filters(value, tmp_path):
    assert not fault("run", ("quality", "filters"), value, tmp_path / "recipe.yaml")


@given(case=st.sampled_from(CASES), value=VALUES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_at_any_key(tmp_path, case, value):
    assert not fault(*case, value, tmp_path / "recipe.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {'.'.join(map(str, case[1]))}")
def test_every_value_at_every_key(case, tmp_path):
    values = [*SCALARS, *COLLECTIONS]
    found = {repr(value)[:80]: said for value in values if (said := fault(*case, value, tmp_path / "recipe.yaml"))}
    assert not found
