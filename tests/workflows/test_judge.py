"""`selfsteer judge`: a file of pairs in, a table and JSON out, and nothing asked twice."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

import selfsteer.models
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, DataError, InputError
from selfsteer.judges import Answer, AnswerCache, Judgement
from selfsteer.judges.tables import Judged
from selfsteer.loop import run
from selfsteer.stages.judgements import judge_with_cache
from selfsteer.workflows.judge import as_json, open_judges, read_pairs
from tests.backends.chat_server import ChatServer, completion
from tests.conftest import build_model, build_tokenizer
from tests.run_helpers import contrasts, scripted_recipe, without_reports, write_queries

PROGRAM = """
from pathlib import Path

def prefer(pair):
    with Path(__file__).with_suffix(".calls").open("a") as calls:
        calls.write(f"{pair.prompt[0]['content']} {pair.first} {pair.second}\\n")
    return pair.first.count("good") - pair.second.count("good")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a file of four pairs and a program that writes down what it is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    rows = [
        {"input": "q1", "output_1": "good", "output_2": "bad", "label": 1},
        {"input": "q2", "output_1": "bad", "output_2": "good", "label": 2},
        {"input": "q3", "output_1": "good", "output_2": "poor", "label": 2},
        {"input": "q4", "output_1": "poor", "output_2": "worse", "label": 1},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    (tmp_path / "mine.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def judge(folder, command_line):
    """Run the command in the working folder."""
    return lambda *arguments, program="judge": command_line(program, *arguments)


def calls(folder: Path) -> list[str]:
    file = folder / "mine.calls"
    return file.read_text().splitlines() if file.is_file() else []


def test_pairs_are_judged_shown_and_written_and_a_second_run_asks_nothing(folder, judge):
    arguments = ["pairs.json", "--judge", "program:mine.py:prefer", "--answers", "kept", "--json"]
    code, shown, said = judge(*arguments, "one.json")
    assert (code, said.strip()) == (0, "")
    assert "prefer" in shown and "pairs" in shown and "50 %" in shown
    assert sorted(calls(folder)) == sorted(
        f"{query} {responses}"
        for query, *both in (
            ("q1", "good bad", "bad good"),
            ("q2", "bad good", "good bad"),
            ("q3", "good poor", "poor good"),
            ("q4", "poor worse", "worse poor"),
        )
        for responses in both
    )
    found = json.loads((folder / "one.json").read_text())
    (own,) = found["judges"]
    assert own["name"] == "prefer" and found["kappa"] == []
    assert [(row["id"], row["strict"], row["debiased"], row["log_odds"]) for row in own["pairs"]] == [
        ("pairs-1", 1, 1, 1.0),
        ("pairs-2", -1, -1, -1.0),
        ("pairs-3", 1, 1, 1.0),
        ("pairs-4", 0, 0, 0.0),
    ]
    assert [row["outcome"] for row in own["pairs"]] == ["consistent"] * 3 + ["tie"]
    strict = own["subsets"]["pairs"]["strict"]
    assert (strict["right"], strict["wrong"], strict["none"], strict["share"]) == (2, 1, 1, 0.5)
    assert len(list((folder / "kept").iterdir())) == 1

    assert judge(*arguments, "two.json")[:2] == (0, shown)
    assert len(calls(folder)) == 8
    assert (folder / "two.json").read_text() == (folder / "one.json").read_text()


def test_several_sets_are_shown_apart_and_together(folder, judge):
    """Four pairs of which two are judged right, and a file of one that is: 3 of 5."""
    (folder / "more.json").write_text('[{"input": "q5", "output_1": "good", "output_2": "bad", "label": 1}]')
    program = ["--judge", "program:mine.py:prefer", "--json", "out.json"]
    code, shown, _ = judge("pairs.json", "more.json", *program)
    assert code == 0 and shown.count("all sets") == 2 and "60 %" in shown, "a row, and the sentence about it"
    (own,) = json.loads((folder / "out.json").read_text())["judges"]
    assert list(own["subsets"]) == ["pairs", "more"]
    together = own["all_sets"]
    assert (together["n"], together["strict"]["right"], together["strict"]["share"]) == (5, 3, 0.6)
    assert together["outcomes"] == {"consistent": 4, "inconsistent": 0, "tie": 1, "invalid": 0}
    code, shown, _ = judge("pairs.json", *program)
    assert code == 0 and "all sets" not in shown
    (own,) = json.loads((folder / "out.json").read_text())["judges"]
    assert own["all_sets"] == own["subsets"]["pairs"]


def test_only_what_is_new_is_asked(folder, judge):
    arguments = ["--judge", "program:mine.py:prefer"]
    assert judge("pairs.json", *arguments, "--limit", "2")[0] == 0
    assert len(calls(folder)) == 4 and (folder / "cache/judgements").is_dir()
    assert judge("pairs.json", *arguments)[0] == 0
    assert len(calls(folder)) == 8 and len(set(calls(folder))) == 8
    (folder / "mine.py").write_text(PROGRAM + "\n# another program\n")
    assert judge("pairs.json", *arguments)[0] == 0
    assert len(calls(folder)) == 16


def test_judges_are_compared_with_each_other(judge, folder):
    (folder / "pairs.json").write_text((folder / "pairs.json").read_text().replace("good", "so good"))
    code, shown, _ = judge(
        "pairs.json", "--judge", "program:longer", "--judge", "program:shorter", "--judge", "program:mine.py:prefer",
        "--json", "out.json",
    )  # fmt: skip
    assert code == 0 and "kappa of their debiased verdicts" in shown
    (first, second, third) = json.loads((folder / "out.json").read_text())["kappa"]
    assert (first["one"], first["other"]) == ("longer", "shorter")
    assert isinstance(first["kappa"], float) and first["interval"][0] <= first["kappa"] <= first["interval"][1]
    assert (second["other"], third["other"]) == ("prefer", "prefer")


def test_a_judge_that_goes_by_the_place_and_rows_left_out_are_told(judge, folder):
    (folder / "place.py").write_text("def first(pair):\n    return 1\n")
    with (folder / "odd.jsonl").open("w") as file:
        file.write('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{"prompt": " ", "chosen": "a", "rejected": "b"}\n')
        file.writelines(f'{{"prompt": "q{i}", "chosen": "a", "rejected": "b"}}\n' for i in range(5))
    code, shown, said = judge("odd.jsonl", "--judge", "program:place.py:first")
    assert code == 0 and "first votes for the first response shown in 100% of its answers" in shown
    assert "odd.jsonl: 1 rows left out: empty prompt (1 rows, first at odd.jsonl:2)" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pairs.json"], "no judge is named"),
        (["pairs.json", "--judge", "program:longer", "--page"], "--human NAME"),
        (["pairs.json", "--judge", "program:longer", "--mode", "words"], "where: --mode"),
        (["pairs.json", "--judge", "program:longer", "--mode", "text"], "where: --mode"),
        (["pairs.json", "--judge", "program:longer", "--template", "x"], "where: --template"),
        (["pairs.json", "--judge", "program:longer", "--precision", "half"], "where: --precision"),
        (["pairs.json", "--judge", "program:longer", "--device", "cpu"], "where: --device"),
        (["pairs.json", "--judge", "reward:m", "--api-key-env", "MY_KEY"], "where: --api-key-env"),
        (["pairs.json", "--judge", "endpoint:m", "--trust-remote-code"], "where: --trust-remote-code"),
        (["pairs.json", "--judge", "smollm2-135m", "--revision", "v1"], "where: --revision"),
        (["pairs.json", "--human", "Ann", "--device", "cpu"], "where: --device"),
        (
            ["pairs.json", "--judge", "endpoint:m", "--base-url", "http://x/v1", "--api-key-env", "sk-1"],
            "where: judge.api_key_env (--api-key-env)",
        ),
        (["pairs.json", "--judge", "program:longer", "--base-url", "http://x/v1"], "where: --base-url"),
        (["nowhere.json", "--judge", "program:longer"], "nowhere.json"),
        (["pairs.json", "--judge", "program:longr"], "Did you mean 'longer'"),
        (["pairs.json", "--judge", "program:nowhere.py:f"], "no such file"),
        (["pairs.json", "--judge", ""], "no judge is named"),
        (["pairs.json", "--judge", "nowhere"], "no model 'nowhere'"),
        (["pairs.json", "--judge", "program:longer", "--limit", "0"], "limit is 0"),
        (["pairs.json", "pairs.json", "--judge", "program:longer"], "give each file once"),
        (["mine.py", "--judge", "program:longer"], "can't tell the format"),
    ],
)
def test_wrong_input_is_exit_2_with_one_message(judge, arguments, words):
    code, shown, said = judge(*arguments)
    assert code == 2 and shown == "" and said.startswith("error: ")
    assert words in said


def test_a_file_that_is_missing_is_told_before_any_model_is_looked_for(judge):
    code, _, said = judge("nowhere.json", "--judge", "nowhere")
    assert code == 2 and "nowhere.json" in said and "catalogue" not in said


def test_a_program_that_fails_is_exit_1_and_what_was_answered_is_kept(folder, judge):
    (folder / "mine.py").write_text(PROGRAM + "\ndef fails(pair):\n    return 1 / 0\n")
    code, _, said = judge("pairs.json", "--judge", "program:mine.py:prefer", "--judge", "program:mine.py:fails")
    assert code == 1 and "ZeroDivisionError" in said and "Traceback" not in said
    assert judge("pairs.json", "--judge", "program:mine.py:prefer")[0] == 0
    assert len(calls(folder)) == 8


def test_a_file_where_the_answers_should_go_is_exit_1(judge, folder):
    (folder / "taken").write_text("")
    code, _, said = judge("pairs.json", "--judge", "program:longer", "--answers", "taken")
    assert code == 1 and "can't write" in said


def test_judging_by_programs_needs_no_torch(folder):
    code = (
        "import sys\nfrom selfsteer.cli import main\n"
        "sys.argv = ['selfsteer', 'judge', 'pairs.json', '--judge', 'program:longer']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=folder)
    assert found.returncode == 0, found.stderr


# --- where and how a model is run


def test_options_reach_the_models_that_go_by_them(folder, judge, tiny_chat_model, monkeypatch):
    real, seen = selfsteer.models.load_model, []

    def load(*arguments: Any, **options: Any) -> Any:
        seen.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(selfsteer.models, "load_model", load)
    arguments = ["pairs.json", "--judge", "program:longer", "--judge", tiny_chat_model, "--limit", "1"]
    assert judge(*arguments, "--device", "cpu", "--precision", "bfloat16", "--trust-remote-code")[0] == 0
    (options,) = seen
    assert (options["device"], options["dtype"], options["trust_remote_code"]) == ("cpu", "bfloat16", True)


def test_a_device_that_is_none_is_one_message(judge, tiny_chat_model):
    code, shown, said = judge("pairs.json", "--judge", tiny_chat_model, "--device", "gpu")
    assert (code, shown) == (2, "") and said.startswith("error: no such device: 'gpu'")
    assert "where: judge.device (--device)" in said


def test_the_endpoints_key_is_read_from_the_variable_named(judge, monkeypatch):
    import openai

    real, keys = openai.OpenAI, []

    def client(**options: Any) -> Any:
        keys.append((str(options["base_url"]), options["api_key"]))
        return real(**options)

    monkeypatch.setattr(openai, "OpenAI", client)
    monkeypatch.setattr("selfsteer.stages.judgements.judge_with_cache", lambda judge, *rest: Judged(judge.name, []))
    monkeypatch.setenv("MY_KEY", "abc")
    address = "http://localhost:9/v1"
    assert judge("pairs.json", "--judge", "endpoint:m", "--base-url", address, "--api-key-env", "MY_KEY")[0] == 0
    assert keys == [(address, "abc")]


def test_a_reward_model_is_loaded_once_for_all_runs_of_the_same_command(folder, judge, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    from selfsteer.reward import loading

    tokenizer = build_tokenizer()
    config = build_model(tokenizer, num_labels=1).config
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "rewards")
    tokenizer.save_pretrained(folder / "rewards")
    real, loads = loading.load_reward_model, []
    monkeypatch.setattr(loading, "load_reward_model", lambda *a, **options: loads.append(a) or real(*a, **options))
    arguments = ["pairs.json", "--judge", "reward:rewards", "--json"]
    assert judge(*arguments, "one.json")[0] == 0 and len(loads) == 1
    assert judge(*arguments, "two.json")[0] == 0 and len(loads) == 1
    assert (folder / "one.json").read_text() == (folder / "two.json").read_text()


# --- a person


INTERRUPTED = "interrupted: finished work is kept; run the same command again to resume"
SELFSTEER = [sys.executable, "-m", "selfsteer.cli", "judge", "pairs.json", "--answers", "kept", "--human", "Ann"]


def at_terminal(folder: Path, keys: str) -> tuple[int, str]:
    """Press a key at each prompt of the command on a terminal of its own; returns exit code and screen."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    command = [*SELFSTEER, "--json", "out.json"]
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # fmt: skip
    os.close(theirs)
    screen, left = "", list(keys)
    with contextlib.suppress(OSError):  # the terminal goes when the command ends
        while select.select([ours], [], [], 60)[0]:
            screen += os.read(ours, 4096).decode(errors="replace")
            if left and screen.rstrip(" \x1b[0m").endswith(("q stop here:", "u back:")):
                _wait_for_single_keys(ours)
                screen += " "
                os.write(ours, left.pop(0).encode())
    os.close(ours)
    return process.wait(timeout=60), screen


def _wait_for_single_keys(terminal: int) -> None:
    import termios

    latest = time.monotonic() + 5
    while termios.tcgetattr(terminal)[3] & termios.ICANON and time.monotonic() < latest:
        time.sleep(0.005)


def kept_answers(folder: Path) -> int:
    return sum(len(AnswerCache(file)) for file in (folder / "kept").glob("*.jsonl"))


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_person_stops_by_q_and_is_interrupted_by_ctrl_c_and_goes_on_after_either(folder):
    code, screen = at_terminal(folder, "1=\x03")
    assert code == 130 and INTERRUPTED in " ".join(screen.split())
    assert "2 of 8 answered" in screen and "debiased" not in screen, "no figures"
    assert kept_answers(folder) == 2 and not (folder / "out.json").exists()
    code, screen = at_terminal(folder, "2q")
    assert code == 0 and "3 of 8" in screen and "1 of 8" not in screen and INTERRUPTED not in screen
    assert "3 of 8 answered" in screen and "debiased" in screen and (folder / "out.json").exists()
    assert kept_answers(folder) == 3


def test_a_person_at_the_page_stops_by_its_button_and_is_interrupted_by_ctrl_c(folder):
    for button, code in (("1", 130), ("stop", 0)):
        process = subprocess.Popen(
            [*SELFSTEER, "--page"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        page = urlopen(address, timeout=10).read().decode()
        fields = {name: page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("token", "shown")}
        urlopen(address, urlencode(fields | {"do": button}).encode(), timeout=10).read()
        if code:
            process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=60)
        assert process.returncode == code and "1 of 8 answered" in shown
        assert (INTERRUPTED in " ".join(said.split())) == bool(code) == ("debiased" not in shown)
        assert kept_answers(folder) == 1


# --- as a library


def test_files_of_the_same_name_are_refused(folder):
    (folder / "deep").mkdir()
    (folder / "deep/pairs.json").write_text((folder / "pairs.json").read_text())
    with pytest.raises(DataError, match="files of different names"):
        read_pairs([folder / "pairs.json", folder / "deep/pairs.json"])


def test_pairs_of_several_files_are_those_of_each(folder):
    (folder / "more.json").write_text((folder / "pairs.json").read_text())
    pairs, notes = read_pairs([folder / "pairs.json", folder / "more.json"], limit=3, seed=1)
    assert [pair.subset for pair in pairs] == ["pairs"] * 3 + ["more"] * 3 and notes == []
    assert read_pairs([folder / "pairs.json"], limit=3, seed=1)[0] == pairs[:3]


def test_each_judge_goes_by_the_settings_of_its_kind(tiny_chat_model, folder):
    settings = JudgeSettings(mode="text", precision="float32")
    written, programmed = open_judges(settings, [str(tiny_chat_model), "program:longer"])
    assert written.name == "tiny (text)" and programmed.name == "longer"
    with pytest.raises(ConfigError, match="uses precision"):
        open_judges(JudgeSettings(precision="float32"), ["program:longer", "program:shorter"])


def test_judges_of_one_name_are_told_apart_in_tables(folder):
    (folder / "other.py").write_text(PROGRAM + "# other\n")
    names = ["program:mine.py:prefer", "program:other.py:prefer", "program:longer"]
    assert [judge.name for judge in open_judges(JudgeSettings(), names)] == [*names[:2], "longer"]


def test_one_judges_weights_are_let_go_before_the_next_ones_come(tiny_chat_model, folder, judge, monkeypatch):
    real, alive, seen = selfsteer.models.load_model, weakref.WeakSet(), []

    def load(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        seen.append(len(alive))
        model = real(*arguments, **options)
        alive.add(model)
        return model

    monkeypatch.setattr(selfsteer.models, "load_model", load)
    tokenizer = build_tokenizer()
    build_model(tokenizer, seed=1).save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    (folder / "own.jinja").write_text("{{ first }} or {{ second }}?")
    names = ["--judge", tiny_chat_model, "--judge", folder / "other"]
    assert judge("pairs.json", *names, "--template", "own.jinja")[0] == 0
    assert seen == [0, 0]


def test_figures_of_a_person_who_stopped_early_are_written_too(folder):
    pairs, _ = read_pairs([folder / "pairs.json"])
    judges = open_judges(JudgeSettings(), ["program:longer", "program:shorter"])
    both = [judge_with_cache(judge, pairs, folder / "kept") for judge in judges]
    stopped = Judged("Ann (person)", [Judgement(pairs[0], Answer(1), Answer(-1))])
    found = json.loads(json.dumps(as_json([*both, stopped, Judged("Ben", [])])))
    assert [len(own["pairs"]) for own in found["judges"]] == [4, 4, 1, 0]
    assert [row["kappa"] for row in found["kappa"]].count(None) == 4 and len(found["kappa"]) == 6


def test_a_run_directory_gives_its_kept_pairs_with_the_label_that_the_data_claims(tmp_path):
    with without_reports():
        run(scripted_recipe(write_queries(tmp_path)), tmp_path / "mine")
    kept = [row for row in contrasts(tmp_path / "mine") if row.kept]
    pairs, notes = read_pairs([tmp_path / "mine"])
    assert 0 < len(kept) < 7 and not notes
    assert {(pair.first, pair.second) for pair in pairs} == {
        (row.positive_response, row.negative_response) for row in kept
    }
    assert {(pair.label, pair.subset, pair.criterion) for pair in pairs} == {(1, "mine, round 1", "")}
    assert all(pair.criterion for pair in read_pairs([tmp_path / "mine"], by="aspects")[0])
    few = read_pairs([tmp_path / "mine"], limit=2)[0]
    assert len(few) == 2 and list(few) == list(read_pairs([tmp_path / "mine"], limit=2)[0])


def test_what_a_runs_pairs_are_judged_by_is_no_setting_for_files(judge):
    code, _, said = judge("pairs.json", "--judge", "program:longer", "--by", "aspects")
    assert code == 2 and "--by aspects needs a run's pairs" in " ".join(said.split())


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(InputError, match=r"run"):
        read_pairs([tmp_path])


@pytest.mark.parametrize(
    ("text", "finish", "code", "words"),
    [
        ("", "length", 1, ["no verdict", "4 of 4 pairs have no valid verdict (100%)", "raise --max-tokens"]),
        (None, "content_filter", 1, ["blocked by the server: 8", "use another server"]),
        ("I like both of them", "stop", 0, ["4 of 4 pairs have no valid verdict (100%); replies names no verdict: 8"]),
    ],
)
def test_a_judge_that_never_came_to_a_verdict_is_said_with_what_to_set(
    judge, folder, monkeypatch, text, finish, code, words
):
    server = ChatServer(lambda body, count: completion(text, finish))
    options = ["--judge", "endpoint:m", "--mode", "text", "--base-url", server.url, "--json", "told.json"]
    try:
        found, out, said = judge("pairs.json", *options, "--max-tokens", "20")
        assert {body["max_tokens"] for body in server.bodies} == {20}
        assert found == code and all(word in " ".join((out + said).split()) for word in words)
        figures = json.loads((folder / "told.json").read_text())["judges"][0]["all_sets"]
        assert figures["outcomes"]["invalid"] == 4 and sum(figures["why_invalid"].values()) == 8
        judge("pairs.json", *options)
        assert server.bodies[-1]["max_tokens"] == 16 + 2048, "a server may hide a model that thinks"
    finally:
        server.close()


def test_the_tokens_of_a_reply_are_for_what_a_judge_writes(judge):
    code, _, said = judge("pairs.json", "--judge", "endpoint:m", "--max-tokens", "20", "--base-url", "http://x/v1")
    assert code == 2 and "max_tokens" in said and "mode: text" in said


def test_a_run_that_is_read_in_many_blocks_has_the_same_figures(tmp_path, monkeypatch, command_line):
    """Blocks of a few rows give what one block gives, for `judge RUN` and `evaluate signal`."""
    from selfsteer import records
    from selfsteer.workflows.evaluate_signal import evaluate_signal

    with without_reports():
        queries = tmp_path / "queries.txt"
        queries.write_text("\n".join(f"What is number {n} good for?" for n in range(40)), encoding="utf-8")
        run(scripted_recipe(queries), tmp_path / "mine")
        kept = [row.id for row in contrasts(tmp_path / "mine") if row.kept]
        found = {}
        for rows in (4096, 3):
            monkeypatch.setattr(records, "_BLOCK_ROWS", rows)
            split_shards(tmp_path / "mine", rows)
            output = tmp_path / f"{rows}.json"
            options = ["--judge", "program:longer", "--answers", tmp_path / f"answers-{rows}", "--json", output]
            shown = command_line("judge", tmp_path / "mine", *options)
            few = command_line("judge", tmp_path / "mine", *options[:-1], tmp_path / "few.json", "--limit", "7")
            shutil.rmtree(tmp_path / "mine/judgements", ignore_errors=True)
            signals = [
                evaluate_signal(tmp_path / "mine", overrides={"name": "program:longer"}, limit=limit)
                for limit in (None, 7)
            ]
            found[rows] = [shown, output.read_text(), few, (tmp_path / "few.json").read_text(), *signals]
    assert found[3] == found[4096]
    assert 9 < len(kept) < 40
    assert [row["id"] for row in json.loads(found[3][1])["judges"][0]["pairs"]] == [
        f"mine, round 1, {name}" for name in kept
    ]


def split_shards(run_dir: Path, size: int) -> None:
    """Cut a run's shard of contrasts into several, rows in no order, and name them in its ledger."""
    from selfsteer.files import append_json, read_json_lines
    from selfsteer.records import Contrast, read_rows, write_rows

    entry = [line for line in read_json_lines(run_dir / "ledger.jsonl") if line["stage"] == "contrasts"][-1]
    rows = sorted(read_rows([run_dir / name for name in entry["files"]], Contrast), key=lambda row: row.id[::-1])
    names = [f"round-01/contrasts/cut-{size}-{start}.parquet" for start in range(0, len(rows), size)]
    for place, name in enumerate(names):
        write_rows(run_dir / name, Contrast, rows[place * size : (place + 1) * size])
    append_json(run_dir / "ledger.jsonl", entry | {"files": names})
