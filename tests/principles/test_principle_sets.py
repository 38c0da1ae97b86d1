"""Principle sets: the shipped ones, and what a malformed file is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from selfsteer.errors import PrincipleError
from selfsteer.principles import list_sets, load_set, parse_set, template_versions

GOOD = """\
name: mine
version: 1
aspects_per_query: 1
fallback: [Calm]
aspects:
  - name: Calm
    positive: calm
    negative: hectic
    meaning: keeps calm
    positive_principle: Keep calm.
    negative_principle: Rush.
  - name: Warmth
    positive: warm
    negative: cold
    meaning: sounds warm
    positive_principle: Be warm.
    negative_principle: Be cold.
  - name: Wit
    extra: true
    positive: witty
    negative: humourless
    meaning: makes one smile
    positive_principle: Be witty.
    negative_principle: Be humourless.
few_shot:
  - query: Hello there.
    aspects: [Warmth]
"""


def test_shipped_sets():
    assert list_sets() == ["brief", "quality"]
    names = {name: [aspect.name for aspect in load_set(name).choosable] for name in list_sets()}
    assert names["quality"] == (
        ["Safety", "Logicality", "Comprehensiveness", "Helpfulness", "Literariness", "Accuracy", "Engagement"]
    )
    assert names["brief"] == ["Brevity", "Directness", "Focus"]
    assert [aspect.name for aspect in load_set("quality").extras] == ["Concision"]
    assert load_set("brief").extras == []
    assert (load_set("brief").direction, load_set("quality").direction) == ("shorter", None)
    assert (load_set("brief").aspects_per_query, load_set("quality").aspects_per_query) == (1, 2)


@pytest.mark.parametrize("name", ["brief", "quality"])
def test_shipped_sets_are_well_made(name):
    principles = load_set(name)
    assert principles.name == name
    shown = {aspect for example in principles.few_shot for aspect in example.aspects}
    assert shown == {aspect.name for aspect in principles.choosable}, "each aspect is shown in an example"
    assert all(len(example.aspects) >= principles.aspects_per_query for example in principles.few_shot)
    assert len(principles.fallback) >= principles.aspects_per_query
    for aspect in principles.aspects:
        for text in (aspect.positive_principle, aspect.negative_principle):
            assert 1 <= text.count(".") <= 3 and text.endswith(".") and "\n" not in text
        assert aspect.positive.islower() and aspect.negative.islower()


def test_brief_asks_for_short_against_long():
    for aspect in load_set("brief").aspects:
        assert "short" in aspect.positive_principle and "long" not in aspect.positive_principle
        assert "long" in aspect.negative_principle and "short" not in aspect.negative_principle
        assert len(aspect.positive_principle.split()) <= 20, "a small model follows short commands"


def test_defaults_and_plain_text_values():
    principles = parse_set(GOOD.replace("Calm", "No").replace("name: mine", "name: 1984"))
    assert (principles.name, principles.version, principles.aspects[0].name) == ("1984", 1, "No")
    assert (principles.steering, principles.direction, principles.description) == ("full", None, "")


def test_load_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load_set(path) == load_set(str(path)) == parse_set(GOOD)


def test_fingerprint_names_the_content():
    plain = parse_set(GOOD).fingerprint
    assert plain == parse_set("# a comment\n" + GOOD + "description: told otherwise\n").fingerprint
    assert plain != parse_set(GOOD.replace("Be warm.", "Be very warm.")).fingerprint
    assert plain != parse_set(GOOD + "steering: direct\n").fingerprint
    assert plain != load_set("brief").fingerprint


def test_unknown_set():
    with pytest.raises(PrincipleError) as caught:
        load_set("qualty")
    assert caught.value.what == "no such principle set: 'qualty'"
    assert caught.value.do == "Did you mean 'quality'? Available: brief, quality, or the path of a YAML file"
    assert caught.value.exit_code == 2


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(PrincipleError, match="no such principle set"):
            load_set(path)


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(PrincipleError, match="can't read the principle set") as caught:
        load_set(tmp_path / "bad.yaml")
    assert caught.value.where.endswith("bad.yaml")


# What is replaced by what in GOOD, then the error's message, its line and a part of its advice.
WRONG = {
    "not yaml": ("fallback: [Calm]", "fallback: [Calm", "this is not valid YAML: expected ',' or ']'", 5, "correct"),
    "tab": ("    meaning: keeps", "\tmeaning: keeps", "this is not valid YAML: found character '\\t'", 9, "correct"),
    "control": (
        "Rush.",
        "Ru\0sh.",
        "this is not valid YAML: character",
        11,
        "correct",
    ),
    "twice": ("version: 1", "version: 1\nversion: 2", "key 'version' is given twice", 3, "keep one"),
    "odd key": ("version: 1", "? [a]\n: 1", "a key must be a word", 2, "correct"),
    "alias": (
        "fallback: [Calm]",
        "fallback: &x [*x]",
        "this is not valid YAML: it is nested too deep",
        1,
        "correct",
    ),
    "extra key": ("version: 1", "version: 1\nstering: full", "unknown key 'stering'", 3, "Did you mean 'steering'?"),
    "extra aspect key": (
        "    meaning: sounds",
        "    meanin: sounds",
        "unknown key 'aspects[1].meanin'",
        15,
        "'meaning'?",
    ),
    "extra few-shot key": (
        "    aspects: [W",
        "    aspect: [W",
        "unknown key 'few_shot[0].aspect' (1 more)",
        27,
        "'aspects'?",
    ),
    "missing": ("version: 1\n", "", "version is missing", 1, "add it"),
    "missing meaning": ("    meaning: sounds warm\n", "", "aspects[1].meaning is missing", 12, "add it"),
    "bad version": (
        "version: 1",
        "version: one",
        "wrong value for version: it takes a whole number",
        2,
        "correct",
    ),
    "zero": ("per_query: 1", "per_query: 0", "wrong value for aspects_per_query: it must be at least 1", 3, "correct"),
    "too many": ("per_query: 1", "per_query: 3", "aspects_per_query is 3, but there are only 2 aspects", 3, "lower it"),
    "steering": ("version: 1", "version: 1\nsteering: soft", "wrong value for steering: it takes", 3, "correct"),
    "direction": ("version: 1", "version: 1\ndirection:", "direction is empty", 3, "leave the key out"),
    "empty principle": ("Be warm.", "' '", "aspects[1].positive_principle is empty", 16, "give it a value"),
    "empty query": ("Hello there.", "''", "few_shot[0].query is empty", 26, "give it a value"),
    "no few-shot aspect": ("[Warmth]", "[]", "few_shot[0].aspects is empty", 27, "give it a value"),
    "same adjectives": (
        "negative: cold",
        "negative: Warm",
        "positive and negative of 'Warmth' are the same",
        14,
        "opposites",
    ),
    "same principles": (
        "Be cold.",
        "Be warm.",
        "positive_principle and negative_principle of 'Warmth'",
        17,
        "opposites",
    ),
    "same names": ("name: Warmth", "name: CALM", "two aspects have the name 'CALM'", 12, "name of its own"),
    "bad name": ("name: Warmth", "name: Warm, kind", "'Warm, kind' can't be an aspect's name", 12, "a word"),
    "few-shot name": ("[Warmth]", "[Warmt]", "'Warmt' is no aspect that can be chosen", 27, "Did you mean 'Warmth'?"),
    "few-shot extra": ("[Warmth]", "[Wit]", "'Wit' is no aspect that can be chosen", 27, "Calm, Warmth"),
    "few-shot twice": ("[Warmth]", "[Warmth, Warmth]", "'Warmth' is named twice", 27, "once"),
    "fallback name": ("[Calm]", "[Clam]", "'Clam' is no aspect that can be chosen", 4, "Did you mean 'Calm'?"),
    "extra flag": (
        "extra: true",
        "extra: perhaps",
        "wrong value for aspects[2].extra: it takes true or false",
        19,
        "correct",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_malformed_set(case, tmp_path):
    old, new, what, line, do = WRONG[case]
    assert GOOD.count(old) >= 1
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PrincipleError) as caught:
        load_set(path)
    assert caught.value.what.startswith(what)
    assert caught.value.where == f"{path}:{line}"
    assert do in caught.value.do


def test_text_that_is_no_set():
    with pytest.raises(PrincipleError, match="the principle set is empty"):
        parse_set("# nothing here\n")
    with pytest.raises(PrincipleError, match="wrong value for the set"):
        parse_set("just a sentence")


def test_unknown_aspect():
    with pytest.raises(PrincipleError, match="'Acuracy' is no aspect of the principle set 'quality'") as caught:
        load_set("quality").aspect("Acuracy")
    assert caught.value.do.startswith("Did you mean 'Accuracy'? Available: Accuracy, Comprehensiveness, Concision")


def test_template_versions():
    versions = template_versions()
    assert {"choose_aspects", "steer", "write_guideline", "write_pairs"} <= versions.keys()
    assert template_versions("steer") == {"steer": versions["steer"]}
    assert all(version.isdigit() for version in versions.values())


def test_no_torch():
    code = "import sys, selfsteer.principles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_direction_of_a_row_is_that_of_its_only_aspect_or_else_the_sets():
    quality, brief = load_set("quality"), load_set("brief")
    assert quality.direction_of(["Concision"]) == "shorter" and quality.direction_of(["Accuracy"]) is None
    assert quality.direction_of(["Concision", "Accuracy"]) is None, "a row that is steered two ways has neither's"
    assert brief.direction_of([]) is None, "a guideline that was written for the query may be about anything"
    assert brief.direction_of(["Brevity"]) == brief.direction_of(["Brevity", "Focus"]) == "shorter"
