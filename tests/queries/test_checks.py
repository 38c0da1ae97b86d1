"""The checks of a query set: each acts, and names what it found."""

from __future__ import annotations

import json

import pytest

from selfsteer.config import QuerySettings
from selfsteer.errors import ConfigError, DataError
from selfsteer.language_id import known_languages, language
from selfsteer.queries import Checks, Fault
from selfsteer.queries.prompt_forms import to_texts

GERMAN = "Erkläre mir bitte in wenigen Sätzen, warum der Himmel am Abend rot wird und am Mittag blau ist."
ENGLISH = "Explain to me in a few sentences why the sky turns red in the evening while it is blue at noon."


def user(text):
    return [{"role": "user", "content": text}]


def checks(languages=None, **settings):
    return Checks(QuerySettings.model_validate(settings), languages)


def bench(tmp_path, *rows):
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_no_settings_keep_everything():
    made = checks()
    assert [made.fault("a", user(text)) for text in ("", GERMAN, GERMAN, "x" * 9999)] == [None] * 4


def test_lengths_count_the_characters_of_all_messages():
    made = checks(min_chars=4, max_chars=6)
    faults = [made.fault("a", user("x" * count)) for count in range(3, 8)]
    assert [fault and fault.check for fault in faults] == ["too_short", None, None, None, "too_long"]
    assert faults[0].reason == "too short: 3 characters, fewer than 4"
    assert made.fault("a", [*user("xx"), {"role": "assistant", "content": "yy"}, *user("zz")]).check == "too_long"


def test_a_language_is_dropped_only_where_it_is_certain():
    made = checks(["en", "fr"])
    assert made.fault("a", user(GERMAN)) == Fault("language", "language de, not en or fr", {"language": "de"})
    assert made.fault("a", user(ENGLISH)) is None
    assert language("x = 3") is None and made.fault("a", user("x = 3")) is None
    system = [{"role": "system", "content": GERMAN}, *user(ENGLISH)]
    assert made.fault("a", system) is None, "the language is the user's"


def test_an_unknown_language_is_refused_with_a_guess():
    with pytest.raises(ConfigError, match="unknown language 'eng'") as caught:
        checks(["eng"])
    assert caught.value.where == "queries.languages" and "Did you mean 'en'?" in caught.value.do
    assert {"en", "de", "zh", "hr"} <= set(known_languages())


def test_a_contaminated_query_names_benchmark_row_and_words(tmp_path):
    source = bench(
        tmp_path, {"question": "one two three four five"}, {"turns": ["first turn here", "six seven eight nine"]}
    )
    made = checks(decontaminate=[source], decontaminate_ngram=4)
    fault = made.fault("a", user("Is it six, seven, eight, nine or ten?"))
    assert fault.check == "contaminated" and "'six seven eight nine'" in fault.reason
    assert fault.found == {"benchmark": source, "row": f"{source}:2", "words": "six seven eight nine"}
    assert made.fault("a", user("Is it six, seven, eight or nine?")) is None
    assert made.fault("a", user("First turn: here!")).found["words"] == "first turn here", "a short one, whole"
    turns = [*user("one two three four"), {"role": "assistant", "content": "yes"}, *user("and now?")]
    assert made.fault("a", turns).check == "contaminated", "an earlier turn is looked at, too"


def test_thirteen_words_are_the_rule_unless_another_is_given(tmp_path):
    words = [f"w{number}" for number in range(13)]
    made = checks(decontaminate=[{"source": bench(tmp_path, " ".join([*words, "end"]))}])
    assert made.fault("a", user(" ".join(words))) is not None
    assert made.fault("a", user(" ".join(words[:12]))) is None


def test_a_near_duplicate_names_the_first():
    made = checks(near_duplicates=0.7)
    assert made.fault("a", user(ENGLISH)) is None
    made.remember("b", user(GERMAN))
    assert made.fault("c", user(ENGLISH + "!!")).reason == "near duplicate of a (similarity 1.00)"
    assert made.fault("d", user(GERMAN.upper())).found == {"of": "b"}


def test_what_another_check_drops_is_not_compared_with():
    made = checks(near_duplicates=0.7, max_chars=len(ENGLISH))
    assert made.fault("a", user(ENGLISH + "!!")).check == "too_long"
    assert made.fault("b", user(ENGLISH)) is None


def test_a_benchmark_that_is_not_there_or_holds_nothing(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        checks(decontaminate=[str(tmp_path / "no.jsonl")])
    with pytest.raises(DataError, match="holds no text"):
        checks(decontaminate=[bench(tmp_path, "", {"turns": []}, {"prompt": None})])
    with pytest.raises(DataError, match="columns here: frage"):
        checks(decontaminate=[bench(tmp_path, {"frage": "was?"})])
    with pytest.raises(DataError, match="no column 'q' here"):
        checks(decontaminate=[{"source": bench(tmp_path, {"frage": "was?"}), "field": "q"}])
    with pytest.raises(ConfigError, match="is not a hub data set and has no splits") as caught:
        checks(decontaminate=[{"source": bench(tmp_path, "was?"), "dataset_split": "test"}])
    assert caught.value.where == "queries.decontaminate"


@pytest.mark.parametrize(
    ("row", "field", "texts"),
    [
        ("plain", None, ["plain"]),
        ({"problem": "p", "solution": "s"}, None, ["p"]),
        ({"turns": ["a", "b"]}, None, ["a", "b"]),
        ({"prompt": "p", "turns": ["a", "b"]}, None, ["p"]),
        ({"instruction": "do", "input": "this"}, None, ["do\n\nthis"]),
        ({"instruction": "do", "input": "this"}, "input", ["this"]),
        ({"question": "q", "answer": "a"}, "answer", ["a"]),
        ({"messages": [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]}, None, ["a", "c"]),
        ({"prompt": ""}, None, []),
    ],
)
def test_texts_of_a_benchmark_row(row, field, texts):
    assert to_texts(row, field) == texts
