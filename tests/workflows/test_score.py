"""`selfsteer score`: each row comes back in its place, with its rewards or with what is wrong with it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from selfsteer.cli import app
from selfsteer.errors import SelfsteerError
from selfsteer.models import load_tokenizer
from selfsteer.reward import load_reward_model, score
from selfsteer.workflows import score as score_command
from tests.chat_templates import user
from tests.conftest import build_tokenizer
from tests.reward.tiny import reward_model

ROWS = [
    {"prompt": "Hi", "response": "Hello.", "id": 7},
    {"prompt": user("Hi", "Be brief."), "responses": ["Hello.", "Go away.<|im_end|>"]},
    {"messages": [*user("Hi"), {"role": "assistant", "content": "Hello."}]},
    {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
    {"input": "Hi", "output_1": "No.", "output_2": "Hello.", "label": 2},
    {"instruction": "Hi", "output_1": "Hello.", "output_2": "No.", "preference": None},
    {"messages": user("Hi")},
    {"prompt": "Hi", "response": 4},
    {"prompt": "Hi", "responses": []},
    {"messages": [{"role": "assistant"}]},
    {"text": "Hi"},
    "Hi",
    {"prompt": "Hi", "response": "long " * 900},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "reward"
    tokenizer = build_tokenizer()
    reward_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scored(model, tmp_path, rows, *options: str):
    file, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["score", str(model), str(file), "--output", str(output), "--device", "cpu", *options]
    result = CliRunner().invoke(app, command)
    found = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return result, found


@pytest.mark.parametrize("at_once", [3, 256])
def test_rows_of_every_form_get_their_rewards_and_bad_ones_are_named(model, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(score_command, "_AT_ONCE", at_once)
    result, found = scored(model, tmp_path, ROWS, "--batch-size", "2")
    assert result.exit_code == 0, result.output
    prompts = [user("Hi")] * 2 + [user("Hi", "Be brief.")] * 2
    texts = ["Hello.", "No.", "Hello.", "Go away.<|im_end|>"]
    conversations = [[*p, {"role": "assistant", "content": t}] for p, t in zip(prompts, texts, strict=True)]
    hello, no, brief, away = score(load_reward_model(str(model)), load_tokenizer(str(model)), conversations)
    close = {"abs": 1e-5}
    assert found[0] == ROWS[0] | {"reward": pytest.approx(hello, **close)}
    assert found[1]["rewards"] == pytest.approx([brief, away], **close)
    assert found[2]["reward"] == pytest.approx(hello, **close)
    for row in found[3:5]:
        assert (row["reward_chosen"], row["reward_rejected"]) == pytest.approx((hello, no), **close)
    assert found[5]["rewards"] == pytest.approx([hello, no], **close)
    assert [row["error"].partition(": ")[2] for row in found[6:]] == [
        "'messages' is not a conversation that ends with the assistant's message",
        "'response' is a number, expected text",
        "'responses' is not a list of texts",
        "'messages' has a message with the keys role; expected role and content (or from, value)",
        "'text' is not a conversation that ends with the assistant's message",
        "a row is text, expected an object",
        "longer than the model's context of 512 tokens",
    ]
    assert found[11]["row"] == "Hi" and not any("reward" in row for row in found[6:])
    assert "6 of 13 rows scored" in result.stdout and "7 rows have no reward, first" in result.stderr


def test_rows_of_one_conversation_in_other_forms_and_an_export_of_our_own(model, tmp_path):
    answer = {"role": "assistant", "content": "Hello."}
    forms = [
        ROWS[0],
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "GPT", "value": "Hello."}]},
        {"messages": [user("Hi")[0] | {"content": [{"type": "text", "text": "Hi"}]}, answer]},
        {"instruction": "Hi", "input": "", "output": "Hello."},
        {"prompt": user("Hi"), "completion": [answer], "label": True},
        {"prompt": "Hi", "response": json.dumps([*user("Hi"), answer])},
    ]
    rewards = [row["reward"] for row in scored(model, tmp_path, forms)[1]]
    assert rewards == pytest.approx([rewards[0]] * len(forms), abs=1e-5)
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "train-00000.jsonl").write_text(json.dumps(forms[4]) + "\n{torn\n")
    command = ["score", str(model), str(tmp_path / "own"), "--output", str(tmp_path / "own.jsonl"), "--device", "cpu"]
    assert CliRunner().invoke(app, command).exit_code == 0
    good, torn = map(json.loads, (tmp_path / "own.jsonl").read_text().splitlines())
    assert good["reward"] == pytest.approx(rewards[0], abs=1e-5) and "not valid JSON" in torn["error"]


def test_nothing_is_replaced_unasked_and_nothing_half_is_left(model, tmp_path):
    result, _ = scored(model, tmp_path, [{"prompt": "Hi"}])
    assert isinstance(result.exception, SelfsteerError) and "none of 1 rows can be scored" in result.exception.what
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".out*"))
    assert scored(model, tmp_path, ROWS[:1])[0].exit_code == 0
    again = scored(model, tmp_path, ROWS[:1])[0]
    assert "already exists" in again.exception.what and again.exception.exit_code == 2
    assert len(scored(model, tmp_path, ROWS[:2], "--overwrite")[1]) == 2


def test_a_killed_command_goes_on_and_scores_no_row_twice(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_command, "_AT_ONCE", 4)
    whole = scored(model, tmp_path, ROWS)
    (tmp_path / "out.jsonl").unlink()
    calls = killed_after(monkeypatch, 2)
    with pytest.raises(_Killed):
        scored(model, tmp_path, ROWS)
    (part,) = (tmp_path / ".out.jsonl.part").glob("*.jsonl")
    assert len(part.read_text().splitlines()) == 8 and not (tmp_path / "out.jsonl").exists()
    with part.open("a") as stream:
        stream.write('{"prompt": "H')  # a line that the crash tore
    calls.clear()
    result, found = scored(model, tmp_path, ROWS)
    assert result.exit_code == 0 and found == whole[1] and len(calls) == 2
    assert "resuming after 8 rows" in result.stderr and result.stderr.endswith(whole[0].stderr)
    assert result.stdout == whole[0].stdout and not (tmp_path / ".out.jsonl.part").exists()


def test_what_was_scored_of_another_file_is_not_gone_on_from(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_command, "_AT_ONCE", 4)
    killed_after(monkeypatch, 1)
    with pytest.raises(_Killed):
        scored(model, tmp_path, ROWS)
    result, found = scored(model, tmp_path, ROWS[1:3])
    assert "resuming" not in result.stderr and [set(row) & {"reward", "rewards"} for row in found] == [
        {"rewards"},
        {"reward"},
    ]


def test_an_error_of_an_earlier_scoring_goes_where_the_row_is_scored_now(model, tmp_path):
    assert "error" not in scored(model, tmp_path, [ROWS[0] | {"error": "rows.jsonl:1: too long"}])[1][0]


class _Killed(BaseException):
    pass


def killed_after(monkeypatch, chunks: int) -> list[int]:
    """Kill the first command when it has scored so many chunks; returns a list that later calls add to."""
    score, calls = score_command._Scorer.score, []

    def counted(scorer, conversations):
        calls.append(len(conversations))
        if len(calls) == chunks + 1 and not killed:
            killed.append(True)
            raise _Killed
        return score(scorer, conversations)

    killed: list[bool] = []
    monkeypatch.setattr(score_command._Scorer, "score", counted)
    return calls


@pytest.mark.parametrize("broken", [{"other": "a \ud800"}, {"\ud800": 1}, {"deep": {"er": ["\udfff"]}}])
def test_half_of_a_surrogate_pair_in_any_column_is_the_error_of_its_row_alone(model, tmp_path, broken):
    rows = [{"prompt": "Hi", "response": "Hello."}, {"prompt": "Hi", "response": "No."} | broken]
    for _ in range(2):  # the same command does the same again
        result, found = scored(model, tmp_path, [*rows, rows[0]], "--overwrite")
        assert result.exit_code == 0, result.output
        assert [set(row) >= {"reward"} for row in found] == [True, False, True]
        assert found[1].pop("error").endswith("rows.jsonl:2: broken text (half of a surrogate pair)")
        assert found[1] == rows[1]


def test_a_row_that_cant_be_written_keeps_its_error(model, tmp_path, monkeypatch):
    def refuse(row, **options):
        if "deep" in row:
            raise RecursionError("maximum recursion depth exceeded")
        return json.JSONEncoder(**options).encode(row)

    monkeypatch.setattr(score_command.json, "dumps", refuse)
    rows = [{"prompt": "Hi", "response": "Hello."}, {"prompt": "Hi", "response": "No.", "deep": []}]
    (tmp_path / "rows.jsonl").write_text("".join(json.JSONEncoder().encode(row) + "\n" for row in rows))
    command = ["score", str(model), str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert CliRunner().invoke(app, [*command, "--device", "cpu"]).exit_code == 0
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert "reward" in first and list(second) == ["error"] and "can't be written as JSON" in second["error"]


def test_cells_that_python_cant_hold_are_written_in_words(model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    late = pa.array([253_402_300_800_000_000] * 2, pa.int64()).cast(pa.timestamp("us"))
    table = pa.table({"prompt": ["Hi", "Hi"], "response": ["Hello.", "No."], "late": late})
    pq.write_table(table, tmp_path / "rows.parquet")
    command = ["score", str(model), str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert all("reward" in json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
