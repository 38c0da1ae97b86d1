"""Kept answers: what is written is read back, and nothing in the file can stop a run."""

from __future__ import annotations

import json

import pytest

from selfsteer.errors import StorageError
from selfsteer.judges import Answer, AnswerCache

GOOD = {"vote": -1, "log_odds": -0.25, "text": "B", "valid": True}


def line(values: object, key: str = "k") -> str:
    return json.dumps({"judge": "j", "answers": {key: values}})


def test_answers_are_read_back_as_they_were(tmp_path):
    path = tmp_path / "deep" / "a.jsonl"
    answers = {
        "one": Answer(1, log_odds=1 / 3),
        "two": Answer(-1, text='"B"\n → é'),
        "three": Answer(0, text="half \ud83d", valid=False),
    }
    AnswerCache(path).add(answers, "the judge")
    found = AnswerCache(path)
    assert all(found[key] == answer for key, answer in answers.items())
    assert "four" not in found
    assert json.loads(path.read_text())["judge"] == "the judge"


def test_the_last_of_several_answers_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    cache = AnswerCache(path)
    cache.add({"k": Answer(1)}, "j")
    cache.add({"k": Answer(-1)}, "j")
    assert cache["k"] == AnswerCache(path)["k"] == Answer(-1)


def test_without_a_file_answers_are_kept_in_memory():
    cache = AnswerCache(None)
    cache.add({"k": Answer(1)}, "j")
    assert cache["k"] == Answer(1) and "k" not in AnswerCache(None)


@pytest.mark.parametrize(
    "damage",
    [
        '{"judge": "j", "answers": {"k": {"vo',
        "no JSON at all",
        "\x00\x00",
        "",
        "[1, 2]",
        '"text"',
        "{}",
        '{"answers": null}',
        '{"answers": [1]}',
        line(None),
        line([1, None, "", True]),
        line("A"),
        line({}),
        line({**GOOD, "confidence": 0.9}),
        line({**GOOD, "vote": 2}),
        line({**GOOD, "vote": 1.0}),
        line({**GOOD, "vote": True}),
        line({**GOOD, "vote": "1"}),
        line({**GOOD, "vote": None}),
        line({**GOOD, "vote": [1]}),
        line({**GOOD, "log_odds": "0.5"}),
        line({**GOOD, "log_odds": True}),
        line({**GOOD, "log_odds": float("nan")}),
        line({**GOOD, "log_odds": float("inf")}),
        line({**GOOD, "text": None}),
        line({**GOOD, "valid": 1}),
    ],
)
def test_what_is_no_answer_is_passed_over_and_the_lines_around_it_count(tmp_path, damage):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([line(GOOD, "before"), damage, line(GOOD, "after")]))
    found = AnswerCache(path)
    assert "k" not in found
    assert found["before"] == found["after"] == Answer(-1, log_odds=-0.25, text="B")
    found.add({"k": Answer(1)}, "j")
    assert AnswerCache(path)["k"] == Answer(1)


def test_a_line_of_several_answers_loses_only_the_bad_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"answers": {"bad": {"vote": 9}, "good": GOOD}}))
    found = AnswerCache(path)
    assert "good" in found and "bad" not in found


def test_a_line_torn_by_a_crash_spoils_only_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(line(GOOD, "before") + "\n" + line(GOOD, "torn")[:-9])
    AnswerCache(path).add({"after": Answer(1)}, "j")
    found = AnswerCache(path)
    assert "before" in found and "after" in found and "torn" not in found


def test_a_file_where_a_folder_should_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file" / "a.jsonl")
    with pytest.raises(StorageError, match="can't write"):
        cache.add({"k": Answer(1)}, "j")
