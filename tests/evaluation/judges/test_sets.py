"""Preference pairs out of every form they come in: small rows worked by hand, and the published files."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.errors import ConfigError, DataError
from selfsteer.evaluation.judges.sets import load_pairs

DATA = Path(__file__).parents[4] / "shared" / "data"

LLMBAR = {"input": "Q", "output_1": "A", "output_2": "B", "label": 2}
AUTOJ = {"scenario": "math", "label": 2, "prompt": "Q", "response 1": "A", "response 2": "B"}
ALPACA = {"instruction": "Q", "output_1": "A", "output_2": "B", "preference": 1.2, "dataset": "koala"}
HHH = {"subset": "honest", "prompt": "Q", "chosen": "A", "rejected": "B"}
DIALOGUE = "\n\nHuman: hi\n\nAssistant: Hello.\n\nHuman: Q\n\nAssistant: "
HH = {"chosen": DIALOGUE + "A", "rejected": DIALOGUE + "B"}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Q"}],
    "chosen": {"from": "gpt", "value": "A"},
    "rejected": {"from": "gpt", "value": "B"},
}


def say(*turns: str) -> list[dict[str, str]]:
    """Messages that alternate, from the user's on."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def write(path: Path, *rows) -> Path:
    """Write rows in the format that the name asks for."""
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = lines if ".jsonl" in path.name else json.dumps(rows)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def load(tmp_path):
    def load(*rows, name="set.jsonl", **options):
        return load_pairs(write(tmp_path / name, *rows), **options)

    return load


def chosen(pair):
    return {1: pair.first, -1: pair.second}[pair.label]


# --- forms


@pytest.mark.parametrize(
    ("row", "values", "expected"),
    [
        (LLMBAR, [1, 2, 1.0, None, float("nan")], [1, -1, 1, None, None]),
        (AUTOJ, [0, 1, 2, None], [1, -1, 0, None]),
        (ALPACA, [1, 1.4999, 1.5, 0, 1.5001, 2, None], [1, 1, 0, 0, -1, -1, None]),
    ],
)
def test_labels_are_turned_into_the_numbering_of_the_pair(load, row, values, expected):
    key = "preference" if "preference" in row else "label"
    pairs = load(*({**row, key: value} for value in values)).pairs
    assert [pair.label for pair in pairs] == expected
    assert {(pair.first, pair.second, pair.prompt[0]["content"]) for pair in pairs} == {("A", "B", "Q")}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (HHH, say("Q")),
        (HH, say("hi", "Hello.", "Q")),
        (SHAREGPT, say("Q")),
        ({**SHAREGPT, "system": "S"}, [{"role": "system", "content": "S"}, *say("Q")]),
        (
            {**SHAREGPT, "system": "S", "conversations": [{"from": "system", "value": "T"}, *say("Q")]},
            [{"role": "system", "content": "T"}, *say("Q")],
        ),
        (
            {"prompt": say("h", "i", "Q"), "chosen": say("Q", "A")[1:], "rejected": say("Q", "B")[1:]},
            say("h", "i", "Q"),
        ),
        ({"prompt": "Q", "chosen": say("Q", "A"), "rejected": say("Q", "B")}, say("Q")),  # the prompt said twice
        ({"chosen": say("h", "i", "Q", "A"), "rejected": say("h", "i", "Q", "B")}, say("h", "i", "Q")),
    ],
)
def test_chosen_and_rejected_become_a_labelled_pair(load, row, prompt):
    (pair,) = load(row).pairs
    assert pair.prompt == prompt and {pair.first, pair.second} == {"A", "B"} and chosen(pair) == "A"


def test_chosen_stands_first_in_about_half_of_the_pairs_and_always_in_the_same_ones(load):
    rows = [{**HHH, "prompt": f"question {number}"} for number in range(400)]
    pairs = load(*rows).pairs
    firsts = sum(pair.label == 1 for pair in pairs)
    assert 160 < firsts < 240 and all(chosen(pair) == "A" for pair in pairs)
    assert [pair.label for pair in load(*rows[::-1], name="other.json").pairs] == [pair.label for pair in pairs][::-1]


# --- dialogues


def test_turns_of_one_speaker_that_follow_each_other_are_one(load):
    start = "\n\nHuman: Q\n\nAssistant: Wait."
    (pair,) = load({"chosen": start + "\n\nAssistant: A", "rejected": start + "\n\nAssistant: B"}).pairs
    assert pair.prompt == say("Q") and {pair.first, pair.second} == {"Wait.\n\nA", "Wait.\n\nB"}


def test_an_answer_may_be_empty(load):
    (pair,) = load({"chosen": DIALOGUE, "rejected": DIALOGUE + "B"}).pairs
    assert chosen(pair) == "" and pair.prompt == say("hi", "Hello.", "Q")


def test_equal_dialogues_give_two_equal_answers(load):
    (pair,) = load({"chosen": DIALOGUE + "A", "rejected": DIALOGUE + "A"}).pairs
    assert pair.first == pair.second == "A" and pair.prompt == say("hi", "Hello.", "Q")


PARTED = "the two dialogues are not one conversation with two last answers"
NOT_ASKING = "the conversation does not end with a user message before the answers"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": DIALOGUE + "A", "rejected": DIALOGUE + "B\n\nHuman: and?\n\nAssistant: C"}, PARTED),
        ({"chosen": DIALOGUE.replace("Hello", "Hey") + "A", "rejected": DIALOGUE + "B"}, PARTED),
        ({"chosen": "\n\nHuman: Q", "rejected": "\n\nHuman: R"}, PARTED),
        ({"chosen": "\n\nAssistant: A", "rejected": "\n\nAssistant: B"}, NOT_ASKING),
        ({"chosen": "A", "rejected": "B"}, "'chosen' is no dialogue of the form 'Human: ... Assistant: ...'"),
        ({**HHH, "prompt": " "}, "empty prompt"),
        ({**HHH, "prompt": say("Q", "A")}, NOT_ASKING),
        ({**HHH, "chosen": say("X", "A")}, "'chosen' is not one answer of the assistant"),
        ({**HHH, "rejected": say("A")}, "'rejected' is not one answer of the assistant"),
        ({**LLMBAR, "output_1": "\ud800"}, "'output_1' is broken text (half of a surrogate pair)"),
        (
            {**HHH, "prompt": [{"role": "tool", "content": "x"}]},
            "'prompt' has a message of role 'tool', none of system, user, human, assistant, gpt",
        ),
    ],
)
def test_a_row_without_a_pair_is_reported(tmp_path, row, reason):
    path = tmp_path / "set.jsonl"
    path.write_text(f"{json.dumps(HHH)}\n{json.dumps(row)}\n{json.dumps(HHH)}\n")
    loaded = load_pairs(path)
    assert [pair.id for pair in loaded.pairs] == ["set-1", "set-3"]
    (dropped,) = loaded.dropped
    assert (dropped.id, dropped.where, dropped.reason) == ("set-2", f"{path}:2", reason)


# --- files


@pytest.mark.parametrize("name", ["Set.json", "Set.jsonl", "Set.json.gz", "Set.jsonl.gz", "Set.parquet"])
@pytest.mark.parametrize("row", [LLMBAR, AUTOJ, ALPACA, HHH, HH, SHAREGPT])
def test_every_format_gives_the_same_pairs(load, tmp_path, name, row):
    rows = [row, {**row, "label" if "label" in row else "more": 1}]
    pairs = load(*rows, name=name).pairs
    assert pairs == load(*rows, name="Set.jsonl").pairs
    assert [pair.id for pair in pairs] == ["Set-1", "Set-2"]
    assert {pair.subset for pair in pairs} == {row.get("subset", "Set")}


def test_only_a_newline_ends_a_row(load):
    odd = "one\u2028two\u0085three\x0cfour"
    (pair,) = load({**HHH, "chosen": odd}).pairs
    assert chosen(pair) == odd


def test_a_limit_takes_the_same_random_sample_each_time_in_the_order_of_the_file(load):
    rows = [{**LLMBAR, "input": f"question {number}"} for number in range(60)]
    everything = load(*rows).pairs
    some = load(*rows, limit=20, seed=1).pairs
    assert some == load(*rows, limit=20, seed=1).pairs and len(some) == 20
    assert some == [pair for pair in everything if pair in some] and some != everything[:20]
    assert load(*rows, limit=20, seed=2).pairs != some
    assert load(*rows, limit=60).pairs == load(*rows, limit=99).pairs == everything


def test_a_limit_hides_no_dropped_row(load):
    loaded = load(HHH, {**HHH, "prompt": ""}, HHH, {**HHH, "prompt": ""}, limit=1)
    assert len(loaded.pairs) == 1 and [item.id for item in loaded.dropped] == ["set-2", "set-4"]


# --- errors


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**LLMBAR, "label": 3}, r"'label' is 3, expected one of 1, 2"),
        ({**LLMBAR, "label": 0}, r"'label' is 0, expected one of 1, 2"),
        ({**LLMBAR, "label": True}, r"'label' is True, expected a number"),
        ({**LLMBAR, "label": "1"}, r"'label' is '1', expected a number"),
        ({**AUTOJ, "label": -1}, r"'label' is -1, expected one of 0, 1, 2"),
        ({**ALPACA, "preference": 0.5}, r"'preference' is 0.5, expected a number from 1 to 2, or 0 for a draw"),
        ({**ALPACA, "preference": 2.01}, r"'preference' is 2.01, expected a number from 1 to 2, or 0 for a draw"),
        ({**LLMBAR, "output_2": 7}, r"'output_2' is 7, expected text"),
        ({**HHH, "chosen": None}, r"'chosen' is None, expected text or messages"),
        ({**HHH, "prompt": ["Q"]}, r"'prompt' is 'Q', expected a message with role and content \(or from and value\)"),
        ({**HHH, "prompt": [{"role": "user"}]}, r"'prompt' is None, expected text"),
        ({"prompt": "Q", "answer": "A"}, r"a row has the keys prompt, answer, which is no known form"),
        ({}, r"a row has the keys \(none\), which is no known form"),
        ([1], r"a row is \[1\], which is no known form"),
    ],
)
def test_a_wrong_row_is_an_error_that_says_where_and_what_to_do(tmp_path, row, what):
    path = write(tmp_path / "set.jsonl", HHH, row)
    with pytest.raises(DataError, match=what) as caught:
        load_pairs(path)
    assert caught.value.where == f"{path}:2" and caught.value.exit_code == 2
    assert "correct that row" in caught.value.do or "LLMBar (input, output_1, output_2, label)" in caught.value.do


def test_a_wrong_row_of_a_list_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "set.json", HHH, {**HHH, "chosen": 1})
    with pytest.raises(DataError) as caught:
        load_pairs(path)
    assert caught.value.where == f"{path}: row 2"


def test_a_file_without_a_pair_is_an_error(load, tmp_path):
    with pytest.raises(DataError, match=r"no pair is left of 2 rows: empty prompt \(2 rows\)"):
        load({**HHH, "prompt": ""}, {**HHH, "prompt": ""})
    with pytest.raises(DataError, match="holds no row"):
        load()
    with pytest.raises(DataError, match="can't read the file"):
        load_pairs(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="limit is 0"):
        load(HHH, limit=0)


# --- the published files


@pytest.mark.parametrize(
    ("file", "count", "labels"),
    [
        ("llmbar/Natural.json", 100, {1: 42, -1: 58}),
        ("llmbar/processed_LLMEval2.json", 200, {1: 92, -1: 108}),
        ("autoj/testdata_pairwise.jsonl.gz", 1392, {1: 520, -1: 499, 0: 373}),
        (
            "../alpaca_eval/FuseChat-Llama-3.1-8B-Instruct/weighted_alpaca_eval_gpt4_turbo/annotations.json.gz",
            805,
            {1: 286, -1: 518, 0: 1},
        ),
        ("hh_rlhf/harmless-base_test.jsonl.gz", 2312, None),
        ("hhh_alignment/hhh_alignment.jsonl", 221, None),
        ("rewardbench_partial/chat_hard_llmbar.jsonl", 419, None),
        ("dpo_demo/dpo_en_demo.json", 300, None),
    ],
)
def test_a_published_file_is_read_whole(file, count, labels):
    path = DATA / "preferences" / file
    if not path.is_file():
        pytest.skip(f"no file at {path}")
    loaded = load_pairs(path)
    counts = Counter(pair.label for pair in loaded.pairs)
    assert (len(loaded.pairs), loaded.dropped) == (count, []) and len({pair.id for pair in loaded.pairs}) == count
    assert all(pair.prompt[-1]["role"] == "user" for pair in loaded.pairs)
    if labels:
        assert counts == labels
    else:  # the better one is put first in about half of the pairs
        assert counts.keys() == {1, -1} and abs(counts[1] - count / 2) < 2.6 * count**0.5 / 2


def test_the_two_forms_of_llmbar_agree_on_the_better_answer():
    """rewardbench_partial holds LLMBar's pairs as chosen and rejected."""
    folder = DATA / "preferences"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    names = {"Natural": "natural", "Adversarial_Manual": "adver-manual"}
    other = load_pairs(folder / "rewardbench_partial" / "chat_hard_llmbar.jsonl").pairs
    for name, subset in names.items():
        own = load_pairs(folder / "llmbar" / f"{name}.json").pairs
        same = [pair for pair in other if pair.subset == f"llmbar-{subset}"]
        assert [(pair.prompt, chosen(pair)) for pair in own] == [(pair.prompt, chosen(pair)) for pair in same]


def test_dialogues_of_hh_rlhf_become_alternating_messages_whose_answers_end_the_texts():
    path = DATA / "preferences" / "hh_rlhf" / "harmless-base_test.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no file at {path}")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]
    for row, pair in zip(rows, load_pairs(path).pairs, strict=True):
        roles = [message["role"] for message in pair.prompt]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert row["chosen"].rstrip().endswith(chosen(pair).rpartition("\n\n")[2])
        assert all(message["content"] in row["chosen"] for message in pair.prompt[::2])
