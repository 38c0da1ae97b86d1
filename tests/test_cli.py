"""The command line as a user meets it: one clear message and the right exit code."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from selfsteer import cli
from selfsteer.commands.options import from_options
from selfsteer.errors import DataError
from selfsteer.runs.store import locked

ROOT = Path(__file__).parents[1]


def selfsteer(*arguments, **options):
    command = [sys.executable, "-m", "selfsteer.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


def test_help_lists_the_commands():
    found = selfsteer("--help")
    assert found.returncode == 0
    assert all(word in found.stdout for word in ("run", "report", "models", "principles"))


def test_help_imports_nothing_heavy():
    """A module of commands/ imports what it needs where it runs: help and completion answer at once."""
    code = "import sys, selfsteer.cli; print(*{'torch', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr


def test_the_version_is_shown():
    assert selfsteer("--version").stdout.startswith("selfsteer ")


def test_short_options_and_the_module_by_name(command_line):
    assert command_line("-V") == command_line("--version")
    assert command_line("run", "-h") == command_line("run", "--help")
    found = subprocess.run([sys.executable, "-m", "selfsteer", "-V"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0 and found.stdout.startswith("selfsteer ")
    assert "_SELFSTEER_COMPLETE" in command_line("--show-completion", "bash")[1]


def test_every_default_is_in_the_help(command_line, monkeypatch):
    """Rich takes [...] for its own markup."""
    monkeypatch.setenv("COLUMNS", "200")
    for name, command in cli.STORY.items():
        code, said, _ = command_line(*name.split(), "--help")
        words = " ".join(said.split())
        assert code == 0
        for leaf in inspect.signature(from_options(command)).parameters.values():
            option = leaf.annotation.__metadata__[0]
            if isinstance(option.show_default, str):
                assert option.show_default in words.replace("│ │ ", ""), (name, leaf.name)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["scripted", "--rounds", "2"], ["scripted", "rounds=2"]),
        (["scripted", "--generation.temperature=0.5"], ["scripted", "generation.temperature=0.5"]),
        (["--config", "scripted", "--quiet", "--seed", "3"], ["scripted", "--quiet", "seed=3"]),
        (["scripted", "--dataset", "q.txt", "--run-dir", "x"], ["scripted", "queries=q.txt", "--run-dir", "x"]),
        (["scripted", "--max-new-tokens", "8"], ["scripted", "generation.max_new_tokens=8"]),
        (["seed=1", "--recipe=scripted", "--", "--odd"], ["scripted", "seed=1", "--", "--odd"]),
    ],
)
def test_settings_may_be_given_as_options(options, settings):
    command = typer.main.get_command(cli.app).commands["run"]
    context = command.make_context("run", ["scripted"])
    assert list(command._as_settings(context, options)) == settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chatt",), "Commands: run, "),
        (("evaluate", "modl"), "Did you mean 'model'?"),
        (("run", "scripted", "--dryrun"), "Did you mean '--dry-run'?"),
        (("run", "scripted", "--deepspeed", "x"), "set train.strategy to deepspeed-zero2"),
        (("run", "scripted", "--lr"), "write train.learning_rate=VALUE"),
        (("run", "--config"), "--config needs a value"),
    ],
)
def test_an_unknown_name_is_answered(command_line, arguments, said):
    code, out, errors = command_line(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", errors).split())


def test_the_scripted_recipe_does_the_story_without_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['selfsteer', 'run', 'recipes/scripted.yaml', '--run-dir', sys.argv[1]]\n"
        "import selfsteer.cli\n"
        "selfsteer.cli.main()\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["rounds"][0]["quality"]["kept"] > 0
    assert (tmp_path / "run/report.html").is_file()


def test_a_runs_signal_is_evaluated_without_torch(tmp_path):
    assert selfsteer("run", "scripted", "--run-dir", tmp_path / "run").returncode == 0
    code = (
        "import sys; sys.argv = ['selfsteer', 'evaluate', 'signal', sys.argv[1], '--judge', 'program:shorter']\n"
        "import selfsteer.cli\n"
        "selfsteer.cli.app(standalone_mode=False)\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "round 1" in found.stdout and "on-policyness and margins unknown" in found.stdout
    assert "Is the data right?" in (tmp_path / "run/report.html").read_text()


def test_aspects_are_invented_without_torch(tmp_path):
    options = ["--queries", "builtin:quickstart", "--output", tmp_path / "mine.yaml", "--run-dir", tmp_path / "run"]
    code = (
        "import sys; sys.argv = ['selfsteer', 'principles', 'invent', 'generation.backend=scripted', *sys.argv[1:]]\n"
        "import selfsteer.cli\n"
        "selfsteer.cli.app(standalone_mode=False)\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", code, *map(str, options)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "8 new aspects in" in found.stdout
    (tmp_path / "mine.yaml").write_text("name: own\n")
    refused = selfsteer("principles", "invent", "generation.backend=scripted", *options)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr and "Traceback" not in refused.stderr


def test_the_same_command_again_does_nothing(tmp_path):
    first = selfsteer("run", "scripted", "--run-dir", tmp_path / "run")
    second = selfsteer("run", "scripted", "--run-dir", tmp_path / "run")
    assert first.returncode == second.returncode == 0
    assert "done in" in first.stderr and "done in" not in second.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "one"}\n{"prompt": \n{"prompt": \n', "queries.jsonl:2"),
        ("", "queries.jsonl"),
        ('{"prompt": "  "}\n', "empty"),
        ('{"id": "a", "prompt": "one"}\n{"id": "a", "prompt": "two"}\n{"id": "a", "prompt": "three"}\n', "'a'"),
    ],
)
def test_bad_queries_are_exit_2_with_file_and_line(tmp_path, content, words):
    (tmp_path / "queries.jsonl").write_text(content, encoding="utf-8")
    found = selfsteer("run", "scripted", f"queries={tmp_path / 'queries.jsonl'}", "--run-dir", tmp_path / "run")
    assert found.returncode == 2
    assert words in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], "no such recipe"),
        (["run", "scripted", "train.betta=1"], "Did you mean 'beta'"),
        (["run", "scripted", "queries=nowhere.jsonl"], "no such file"),
        (["run", "scripted", "principles.set=breif"], "Did you mean 'brief'"),
        (["models", "fetch", "smollm"], "smollm2-135m"),
        (["principles", "show", "qualty"], "quality"),
        (["report", "/nowhere"], "selfsteer run"),
        (["evaluate", "signal", "/nowhere"], "no such folder"),
        (["evaluate", "signal", "tests"], "no recipe.yaml"),
        (["fly"], "No such command"),
    ],
)
def test_wrong_input_is_exit_2_without_a_traceback(tmp_path, arguments, words):
    if arguments[0] == "run":
        arguments = [*arguments, "--run-dir", tmp_path / "run"]
    found = selfsteer(*arguments)
    assert found.returncode == 2, found.stderr
    assert words in found.stderr and "Traceback" not in found.stderr


def test_a_model_without_chat_template_is_exit_2(tmp_path, tiny_chat_model):
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tiny_chat_model.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    found = selfsteer("run", "quickstart", f"model={folder}", "--run-dir", tmp_path / "run")
    assert found.returncode == 2, found.stderr
    assert "chat template" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_directory_is_exit_1(tmp_path):
    tmp_path.chmod(0o500)
    found = selfsteer("run", "scripted", "--run-dir", tmp_path / "run")
    assert found.returncode == 1 and "can't write" in found.stderr


def test_a_file_where_the_run_directory_should_be_is_exit_1(tmp_path):
    (tmp_path / "run").write_text("")
    found = selfsteer("run", "scripted", "--run-dir", tmp_path / "run")
    assert found.returncode == 1, found.stderr
    assert "can't write" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize("arguments", [["models", "list"], ["principles", "list"], ["principles", "show", "brief"]])
def test_lists_are_shown(arguments):
    found = selfsteer(*arguments)
    assert found.returncode == 0 and len(found.stdout.splitlines()) > 3


def test_the_hash_that_rows_carry_is_shown_whole_in_a_narrow_terminal():
    from selfsteer.principles import load_set

    hash_of = load_set("quality").fingerprint
    for arguments in (["principles", "list"], ["principles", "show", "quality"]):
        assert hash_of in selfsteer(*arguments, env=os.environ | {"COLUMNS": "80"}).stdout


def test_a_command_in_this_process_leaves_the_signals_as_they_were(command_line):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    command_line("--version")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_unforeseen_error_is_one_message_that_names_its_traceback(monkeypatch, capsys):
    def fail(prog_name: str) -> None:
        raise KeyError("no\x1b[31m such key")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().err
    log = Path(re.search(r"the traceback is in (\S+)", printed)[1])

    assert ended.value.code == 1
    assert "error: unexpected KeyError" in printed and "Traceback" not in printed and "\x1b" not in printed
    assert "Traceback" in log.read_text() and "in fail" in log.read_text()
    log.unlink()


def test_an_unforeseen_error_in_a_run_is_logged_in_its_folder(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, locked(tmp_path, "run directory"):
        1 / 0  # noqa: B018
    assert caught.value.__notes__ == [f"the traceback is in {tmp_path / 'errors.log'}"]
    assert "ZeroDivisionError" in (tmp_path / "errors.log").read_text()


def test_a_foreseen_error_leaves_no_log(tmp_path):
    with pytest.raises(DataError), locked(tmp_path, "run directory"):
        raise DataError("no rows")
    assert not (tmp_path / "errors.log").exists()


def test_a_second_signal_ends_at_once():
    code = (
        "import time; from selfsteer.commands.console import handled_signals, interruptible\n"
        "with handled_signals(), interruptible():\n"
        "    while True:\n"
        "        try: print('ready', flush=True); time.sleep(60)\n"
        "        except KeyboardInterrupt: pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_signal_while_the_arguments_are_read_ends_a_command_as_one_at_work():
    code = (
        "import time; from selfsteer import cli\n"
        "cli.app = lambda **_: (print('ready', flush=True), time.sleep(60))\n"
        "cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "interrupted" in process.communicate(timeout=30)[1] and process.returncode == 143
