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
from selfsteer.judges.pair_datasets import load_pairs

DATA = Path(__file__).parents[3] / "shared" / "data"

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


def whole(*turns: str) -> dict[str, list[dict[str, str]]]:
    """Both dialogues, whose last answers are A and B."""
    return {"chosen": say(*turns, "A"), "rejected": say(*turns, "B")}


TEXTS = {"chosen": "A", "rejected": "B"}
SYSTEM = [{"role": "system", "content": "S"}]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Q", "input": "x", **TEXTS}, say("Q\n\nx")),  # LLaMA-Factory's alpaca form
        ({"instruction": "Q", "history": [["h", "i"]], "system": "S", **TEXTS}, SYSTEM + say("h", "i", "Q")),
        ({"system": "S", "question": "Q", **TEXTS}, SYSTEM + say("Q")),  # orca_dpo_pairs
        ({"prompt": "h", **whole("h", "i", "Q")}, say("h", "i", "Q")),  # orpo-dpo-mix-40k
        ({"prompt": "another text", **whole("Q")}, say("Q")),
        ({"prompt": None, "messages": [], **whole("Q")}, say("Q")),
        ({"prompt": "Q", "chosen": SYSTEM + say("Q", "A"), "rejected": SYSTEM + say("Q", "B")}, SYSTEM + say("Q")),
        ({"prompt": "Q", "prompt_id": "7", "messages": say("Q", "A"), "score_chosen": 9.0, **whole("Q")}, say("Q")),
        ({"prompt": say("h", "i", "Q"), **whole("Q")}, say("h", "i", "Q")),  # the answers repeat the last turn alone
        ({"prompt": SYSTEM + say("Q"), **whole("Q")}, SYSTEM + say("Q")),
        ({"system": "S", **whole("Q")}, SYSTEM + say("Q")),
        ({"messages": say("h", "i", "Q"), "prompt": "Q", **TEXTS}, say("h", "i", "Q")),
        ({"conversations": [{"from": "Human", "value": "Q"}], "chosen": {"from": "ChatGPT", "value": "A"},
          "rejected": {"from": "bot", "value": "B"}}, say("Q")),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}], "chosen": say("Q", "A")[1:],
          "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "B"}]}]}, say("Q")),
        ({"prompt": "Q", "chosen": json.dumps(say("Q", "A")), "rejected": str(say("Q", "B"))}, say("Q")),
        ({"prompt": json.dumps(say("h", "i", "Q")), "chosen": "{'from': 'gpt', 'value': 'A'}", "rejected": "B"},
         say("h", "i", "Q")),
        ({"prompt": "Q", "positive_response": "A", "negative_response": "B", "original_response": "C"}, say("Q")),
        ({"instruction": "Q", "p_system": "p", "n_system": "n", "system": "", "raw": "C", **TEXTS}, say("Q")),
        ({"prompt": "Q", "label": 3, "preference": "odd", "input": "x", **TEXTS}, say("Q")),
    ],
)  # fmt: skip
def test_well_known_forms_and_columns_that_decide_nothing(load, row, prompt):
    (pair,) = load(row).pairs
    assert pair.prompt == prompt and {pair.first, pair.second} == {"A", "B"} and chosen(pair) == "A"


def test_labels_in_csv_are_numbers_and_empty_ones_are_none(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("input,output_1,output_2,label\nQ,A,B,1\nQ,A,B,2.0\nQ,A,B,\nQ,A,B,x\n")
    loaded = load_pairs(path)
    assert [pair.label for pair in loaded.pairs] == [1, -1, None]
    assert [dropped.reason for dropped in loaded.dropped] == ["'label' is 'x', expected a number"]
    path.write_text("instruction,output_1,output_2,preference\nQ,A,B,1.2\n")
    assert [pair.label for pair in load_pairs(path).pairs] == [1]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"images": ["a.png"]}, "the row has images ('images')"),
        ({"tools": [{"name": "f"}]}, "the row has tools ('tools')"),
        ({"chosen": '[{"role": "assistant", "content": "A"'}, "'chosen' looks like a list of messages, and is neither"),
        ({"prompt": [*say("Q"), {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, *say("R")]},
         "a message of 'prompt' has a tool call ('tool_calls')"),
    ],
)  # fmt: skip
def test_what_is_more_than_text_leaves_its_row_out(load, extra, reason):
    loaded = load(HHH, HHH | extra)
    assert len(loaded.pairs) == 1 and loaded.dropped[0].reason.startswith(reason)


def test_a_text_that_begins_like_a_speaker_stays_an_answer(load):
    (pair,) = load({"prompt": "Q", "chosen": "Assistant: A", "rejected": "Human: B"}).pairs
    assert {pair.first, pair.second} == {"Assistant: A", "Human: B"}


def test_a_folder_gives_pairs_under_its_own_name(tmp_path):
    (tmp_path / "both" / "data").mkdir(parents=True)
    write(tmp_path / "both" / "data" / "train.jsonl", LLMBAR, LLMBAR)
    assert [(pair.id, pair.subset) for pair in load_pairs(tmp_path / "both").pairs] == [
        ("both-1", "both"),
        ("both-2", "both"),
    ]


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
NO_PROMPT = (
    "no prompt beside 'chosen' and 'rejected', which are not whole dialogues; the row has the keys chosen, rejected"
)
NOT_ASKING = "the conversation does not end with a user message before the answers"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": DIALOGUE + "A", "rejected": DIALOGUE + "B\n\nHuman: and?\n\nAssistant: C"}, PARTED),
        ({"chosen": DIALOGUE.replace("Hello", "Hey") + "A", "rejected": DIALOGUE + "B"}, PARTED),
        ({"chosen": "\n\nHuman: Q", "rejected": "\n\nHuman: R"}, NO_PROMPT),
        ({"chosen": "\n\nAssistant: A", "rejected": "\n\nAssistant: B"}, NO_PROMPT),
        ({"chosen": "A", "rejected": "B"}, NO_PROMPT),
        ({"chosen": say("Q"), "rejected": say("R")}, PARTED),
        ({**HHH, "prompt": " "}, "empty prompt"),
        ({**HHH, "prompt": say("Q", "A")}, NOT_ASKING),
        ({**HHH, "chosen": say("X", "A")}, "'chosen' is not one answer of the assistant"),
        ({**HHH, "rejected": say("A")}, "'rejected' is not one answer of the assistant"),
        ({**LLMBAR, "output_1": "\ud800"}, "'output_1' is broken text (half of a surrogate pair)"),
        (
            {**HHH, "prompt": [{"role": "tool", "content": "x"}]},
            "'prompt' has a message of role 'tool', none of system, user and assistant",
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


# --- rows that can't be used


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**LLMBAR, "label": 3}, "'label' is 3, expected one of 1, 2"),
        ({**LLMBAR, "label": 0}, "'label' is 0, expected one of 1, 2"),
        ({**LLMBAR, "label": True}, "'label' is True, expected a number"),
        ({**LLMBAR, "label": "first"}, "'label' is 'first', expected a number"),
        ({**AUTOJ, "label": -1}, "'label' is -1, expected one of 0, 1, 2"),
        ({**ALPACA, "preference": 0.5}, "'preference' is 0.5, expected a number from 1 to 2, or 0 for a draw"),
        ({**ALPACA, "preference": 2.01}, "'preference' is 2.01, expected a number from 1 to 2, or 0 for a draw"),
        ({**LLMBAR, "output_2": 7}, "'output_2' is a number, expected text"),
        ({**HHH, "chosen": None}, "'chosen' is empty"),
        ({**HHH, "prompt": ["Q"]}, "'prompt' holds text in place of a message with role and content"),
        ({**HHH, "prompt": [{"role": "user"}]}, "'prompt' has a message with the keys role"),
        ({**HHH, "prompt": [{"role": "user", "content": None}]}, "a message of role 'user' that holds no text"),
        ({"prompt": "Q", "answer": "A"}, "a row has the keys prompt, answer, which is not a known form"),
        ({}, "a row has the keys (none), which is not a known form"),
        ([1], "a row is a list, expected an object"),
    ],
)
def test_a_wrong_row_is_left_out_and_one_alone_is_an_error_that_says_where(tmp_path, row, what):
    path = write(tmp_path / "set.jsonl", HHH, row)
    loaded = load_pairs(path)
    assert [dropped.where for dropped in loaded.dropped] == [f"{path}:2"] and what in loaded.dropped[0].reason
    with pytest.raises(DataError) as caught:
        load_pairs(write(path, row))
    assert what in caught.value.what and f"first at {path}:1" in caught.value.what and caught.value.exit_code == 2


def test_a_row_of_no_known_form_tells_the_forms(load):
    with pytest.raises(DataError) as caught:
        load({"prompt": "Q", "answer": "A"})
    assert "chosen and rejected as whole dialogues" in caught.value.do and "docs/data.md" in caught.value.do


def test_a_wrong_row_of_a_list_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "set.json", HHH, {**HHH, "chosen": 1})
    assert load_pairs(path).dropped[0].where == f"{path}: row 2"


def test_a_file_without_a_pair_is_an_error(load, tmp_path):
    with pytest.raises(DataError, match=r"no pair is left of 2 rows: empty prompt \(2 rows, first at"):
        load({**HHH, "prompt": ""}, {**HHH, "prompt": ""})
    with pytest.raises(DataError, match="holds no row"):
        load()
    with pytest.raises(DataError, match="no such file"):
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
