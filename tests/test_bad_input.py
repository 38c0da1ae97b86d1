"""Input that would never end, fill the memory or overflow: one message, and exit code 2."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.errors import DataError, StorageError
from selfsteer.export.readers import read_contrasts
from selfsteer.queries.file_readers import Unreadable, read_file
from selfsteer.records import Contrast, read_rows, write_rows
from tests.example_rows import contrast

PAIRS = [
    {"prompt": f"What is the {name} made of?", "chosen": f"{name} {name}", "rejected": name * 3}
    for name in ("sea", "sky", "sun", "moon", "wind", "rain")
]


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def error_of(found: tuple[int, str, str], code: int = 2) -> str:
    """The message of a command that ended with this code, without a traceback."""
    assert found[0] == code, found
    assert found[2].count("error: ") == 1 and "unexpected" not in found[2] and "Traceback" not in found[2], found[2]
    return found[2].partition("error: ")[2]


# --- what is no file


def special_file(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt", "jsonl.gz", "parquet", "arrow"])
def test_what_is_no_file_is_refused_as_queries(tmp_path, monkeypatch, command_line, kind, suffix):
    monkeypatch.chdir(tmp_path)  # the address of a socket has at most 108 characters
    source = special_file(Path(f"data.{suffix}"), kind)
    error = error_of(command_line("run", "scripted", f"queries={source}", "--run-dir", "run"))
    assert error.startswith(f"can't read the file: not a regular file\n  where: {source}\n  do:    give a file:")


def test_what_is_no_file_is_refused_everywhere(tmp_path, monkeypatch, command_line, tiny_chat_model):
    monkeypatch.chdir(tmp_path)
    lines, table = special_file(Path("a.jsonl"), "pipe"), special_file(Path("b.parquet"), "pipe")
    (tmp_path / "rows").mkdir()
    special_file(tmp_path / "rows/train-0.parquet", "pipe")
    good = write_jsonl(Path("good.jsonl"), PAIRS)
    recipe = Path("reward.yaml")
    recipe.write_text(f"model: {tiny_chat_model}\nsets: {{a: a.jsonl}}\n")
    of_pairs = Path("evaluated.yaml")
    of_pairs.write_text(f"model: {tiny_chat_model}\nsets: {{a: good.jsonl}}\nevaluate: [a.jsonl]\n")
    template = special_file(Path("judge.jinja"), "pipe")
    commands = [
        ("estimate", "scripted", f"queries={lines}"),
        ("run", "scripted", "--dry-run", f"queries={lines}"),
        ("run", "scripted", f"queries.decontaminate=[{lines}]"),
        ("run", "scripted", f"queries.heldout={lines}"),
        ("run", "scripted", "mode=offline", "generation.backend=transformers", f"preferences={lines}",
         "train.objective=base", f"model={tiny_chat_model}"),
        ("judge", lines, "--judge", "program:shorter"),
        ("judge", good, "--judge", tiny_chat_model, "--template", template),
        ("judge", table, "--judge", "program:shorter"),
        ("filter", table, "--dry-run"),
        ("filter", "rows", "--dry-run"),
        ("export", table, "--format", "trl", "--output", "out.jsonl"),
        ("export", lines, "--format", "trl", "--output", "out.jsonl"),
        ("score", tiny_chat_model, lines, "--output", "scored.jsonl"),
        ("augment", lines, "--output", "grown.jsonl"),
        ("reward", recipe),
        ("reward", of_pairs),
    ]  # fmt: skip
    for command in commands:
        error = error_of(command_line(*command))
        assert "not a regular file" in error or "no such file: a.jsonl" in error, (command, error)


def test_a_pipe_among_the_files_of_a_model_is_refused(tmp_path, command_line, tiny_chat_model):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((tiny_chat_model / "config.json").read_bytes())
    special_file(model / "model.safetensors", "pipe")
    for command in (("estimate",), ("run", "--run-dir", tmp_path / "run")):
        error = error_of(command_line(command[0], "quickstart", f"model={model}", *command[1:]))
        assert "of the model is not a regular file" in error
        assert str(model / "model.safetensors") in error


# --- lines and archives

LOAD = """
import resource, sys
from selfsteer.errors import SelfsteerError
from selfsteer.queries import load_queries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_queries(sys.argv[1])
except SelfsteerError as error:
    print(error.exit_code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error, sep="\\n")
"""


def refused_with(path: Path) -> tuple[int, int, str]:
    """The exit code, the growth of the peak memory in MB, and the message."""
    found = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    code, growth, message = found.stdout.split("\n", 2)
    return int(code), int(growth) // 1000, message


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("long.jsonl.gz", b'{"prompt": "short"}\n', "a line of more than 10,000,000 bytes\n  where: {}:2\n"),
        ("long.csv.gz", b"prompt\nshort\n", "a line of more than 10,000,000 bytes\n  where: {}:3\n"),
        ("long.txt.gz", b"\xff\xfea\0\n\0", "a line of more than 10,000,000 bytes\n  where: {}:2\n"),
        ("long.json.gz", b"[", "it unpacks to more than 100 times its size, and to more than 50,000,000 bytes\n"),
    ],
)
def test_an_archive_of_one_giant_line_takes_little_memory(tmp_path, name, head, words):
    path = tmp_path / name
    with gzip.open(path, "wb") as stream:
        stream.write(head)
        for _ in range(200):
            stream.write(b"a" * 1_000_000)
    assert path.stat().st_size < 250_000
    code, megabytes, message = refused_with(path)
    assert code == 2 and message.startswith(words.format(path))
    assert megabytes < 180, message


def test_an_archive_of_many_short_lines_may_not_multiply_either(tmp_path):
    path = tmp_path / "many.txt.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(600):
            stream.write((b"a" * 99 + b"\n") * 1000)
    with pytest.raises(DataError) as caught:
        deque(read_file(path), maxlen=0)
    assert "it unpacks to more than 100 times its size" in caught.value.what and caught.value.where == str(path)


def test_a_cell_of_a_quote_that_is_never_closed_is_no_row(tmp_path):
    path = tmp_path / "open.csv"
    path.write_text('prompt\n"' + ("a" * 1000 + "\n") * 12_000)
    _, first = next(read_file(path))
    assert isinstance(first, Unreadable) and "field larger than field limit (10000000)" in first.reason


def test_a_line_of_some_megabytes_is_read(tmp_path, command_line):
    rows = [*PAIRS, {"prompt": "a " * 2_000_000, "chosen": "b", "rejected": "c"}]
    path = write_jsonl(tmp_path / "long.jsonl", rows)
    assert command_line("judge", path, "--judge", "program:shorter", "--answers", tmp_path / "answers")[0] == 0


# --- folders and Parquet


def odd_columns(rows: int) -> dict[str, pa.Array]:
    """Columns of values that Python can't hold, and that no command reads."""
    late = pa.array([253_402_300_800_000_000] * rows, pa.int64()).cast(pa.timestamp("us"))
    offsets = pa.array(range(0, 2 * rows + 2, 2), pa.int32()).buffers()[1]
    torn = pa.Array.from_buffers(pa.string(), rows, [None, offsets, pa.py_buffer(b"\xff\xfe" * rows)])
    return {"late": late, "torn": torn, "zone": late.cast(pa.timestamp("us", "Nowhere/Here"))}


@pytest.fixture
def odd_pairs(tmp_path) -> Path:
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table(pa.Table.from_pylist(PAIRS).to_pydict() | odd_columns(len(PAIRS))), path)
    return path


def test_cells_that_python_cant_hold_stop_no_command(tmp_path, command_line, odd_pairs):
    judged = command_line("judge", odd_pairs, "--judge", "program:shorter", "--answers", tmp_path / "answers")
    assert judged[0] == 0, judged
    ran = command_line("run", "scripted", f"queries={odd_pairs}", "queries.heldout=2", "--run-dir", tmp_path / "run")
    assert ran[0] == 0, ran


def test_a_contrast_file_needs_its_own_columns_alone(tmp_path, command_line):
    rows = [contrast(id=f"row {number}") for number in range(3)]
    path = tmp_path / "rows.parquet"
    write_rows(path, Contrast, rows)
    table = pq.read_table(path)
    for name, column in odd_columns(3).items():
        table = table.append_column(name, column)
    pq.write_table(table, path)
    assert list(read_contrasts(path)) == rows


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("round", odd_columns(2)["late"], "the column round is of type timestamp[us], expected int32"),
        ("prompt", pa.array(["a", "b"]), "the column prompt is of type string, expected list"),
        ("positive_response", odd_columns(2)["torn"], "can't read the file: 'utf-8' codec can't decode"),
        ("negative_response", pa.array(["a", None]), "the column negative_response lacks a value in 1 rows"),
        ("provenance", pa.array(["{", "{}"]), "can't read the file: Expecting property name"),
    ],
)
def test_a_contrast_column_of_another_type_is_named(tmp_path, command_line, name, column, words):
    path = tmp_path / "rows.parquet"
    write_rows(path, Contrast, [contrast(id="a"), contrast(id="b")])
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)
    assert error_of(command_line("filter", path, "--dry-run")).startswith(words)
    assert error_of(command_line("export", path, "--format", "trl", "--output", tmp_path / "out.jsonl")).startswith(
        words
    )


def test_a_folder_and_a_dangling_link_among_data_files_are_passed_over(tmp_path, command_line):
    folder = tmp_path / "data"
    (folder / "x.jsonl").mkdir(parents=True)
    (folder / "y.jsonl").symlink_to("nowhere")
    write_jsonl(folder / "pairs.jsonl", PAIRS)
    found = command_line("run", "scripted", f"queries={folder}", "queries.heldout=2", "--run-dir", tmp_path / "run")
    assert found[0] == 0, found


def test_a_saved_data_set_that_names_a_folder_is_refused(tmp_path, command_line):
    (tmp_path / "data/part.arrow").mkdir(parents=True)
    (tmp_path / "data/state.json").write_text('{"_data_files": [{"filename": "part.arrow"}]}')
    error = error_of(command_line("run", "scripted", f"queries={tmp_path / 'data'}", "--run-dir", tmp_path / "run"))
    assert error.startswith("can't read the file: Is a directory\n  where: ")


def test_the_home_of_nobody_is_no_such_file(tmp_path, command_line):
    home = "~no-such-user/x"
    for arguments in (
        ("run", "scripted", f"queries={home}"),
        ("run", "scripted", f"principles.set={home}"),
        ("run", "quickstart", f"model={home}"),
        ("judge", home, "--judge", "program:shorter"),
        ("judge", home, "--judge", f"program:{home}.py:f"),
        ("judge", home, "--judge", f"implicit:{home}@{home}"),
    ):
        options = ("--run-dir", tmp_path / "run") if arguments[0] == "run" else ()
        assert "no such" in error_of(command_line(*arguments, *options)), arguments


# --- numbers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "scripted", "rounds=1000000"), "wrong value for 'rounds': it must be at most 1,000"),
        (("run", "scripted", "rounds=1000000", "--dry-run"), "wrong value for 'rounds'"),
        (("generate", "scripted", "rounds=1000000"), "wrong value for 'rounds'"),
        (("estimate", "scripted", "rounds=1000000"), "wrong value for 'rounds'"),
        (("estimate", "scripted", f"queries.limit={10**19}"), "wrong value for 'queries.limit'"),
        (("run", "scripted", f"queries.limit={10**19}"), "wrong value for 'queries.limit'"),
        (("run", "scripted", f"generation.batch_size={10**19}"), "wrong value for 'generation.batch_size'"),
        (("run", "scripted", f"seed={10**30}"), "wrong value for 'seed'"),
        (("run", "scripted", "queries.heldout=1" + "0" * 400), "wrong value for 'queries.heldout'"),
        (("run", "scripted", f"train.batch_size={10**19}", "--dry-run"), "wrong value for 'train.batch_size'"),
        (("run", "scripted", "quality.filters=[{leak: {ngram: 9.0e29}}]"), "filter 'leak'"),
        (("run", "scripted", "quality.filters=[{leak: {ngram: 1000000000}}]"), "filter 'leak'"),
        (("run", "scripted", "quality.filters=[{direction: x}]"), "wrong value for 'quality.filters'"),
        (("run", "scripted", "quality.filters=[1]"), "wrong value for 'quality.filters.0'"),
        (("run", "scripted", "quality.filters=5"), "wrong value for 'quality.filters'"),
        (("filter", "a.parquet", "--dry-run", "quality.filters=[{leak: 5}]"), "wrong value for 'quality.filters'"),
    ],
)  # fmt: skip
def test_numbers_and_filters_that_can_only_be_wrong(tmp_path, monkeypatch, command_line, arguments, words):
    monkeypatch.chdir(tmp_path)
    error = error_of(command_line(*arguments))
    assert error.startswith(words) and len(error) < 2000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("estimate", "scripted", "--queries", 10**30),
        ("estimate", "scripted", "--queries", "1" + "0" * 400),
        ("estimate", "scripted", "--devices", 10**30),
        ("augment", "builtin:quickstart", "generation.backend=scripted", "--count", 10**30),
        ("score", "model", "rows.jsonl", "--batch-size", 10**19),
    ],
)
def test_an_option_beyond_all_counts_is_refused(tmp_path, monkeypatch, command_line, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, said = command_line(*arguments, *(() if arguments[0] == "estimate" else ("--output", "out.jsonl")))
    assert code == 2 and "less than or equal to 1000000000000" in " ".join(said.replace("│", " ").split())


def test_a_grid_that_multiplies_is_counted_before_it_is_made(tmp_path, command_line):
    sweep = tmp_path / "sweep.yaml"
    values = list(range(1, 301))
    sweep.write_text(
        json.dumps({"recipe": "scripted", "grid": {"seed": values, "rounds": values, "queries.limit": values}})
    )
    for options in ((), ("--dry-run",)):
        error = error_of(command_line("sweep", sweep, "--run-dir", tmp_path / "runs", *options))
        assert error.startswith("the sweep has 27,000,000 variants, and at most 1,000 are planned")
    sweep.write_text(
        json.dumps({"recipe": "scripted", "variants": {"a": {}, "b": {"rounds": 1}}, "seeds": list(range(501))})
    )
    assert error_of(command_line("sweep", sweep)).startswith("the sweep has 1,002 variants")
    reward = tmp_path / "reward.yaml"
    reward.write_text(json.dumps({"sets": {"a": "a.jsonl"}, "seeds": list(range(1001))}))
    assert "1,001 models to train" in error_of(command_line("reward", reward))


@pytest.mark.parametrize("rounds", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_rounds_and_the_largest_number_of_queries_are_planned(tmp_path, command_line, tiny_chat_model, rounds):
    options = ("quickstart", f"model={tiny_chat_model}", f"rounds={rounds}")
    code, printed, said = command_line("run", *options, "--dry-run", "--run-dir", tmp_path / "run")
    assert code == 0 and f"round {rounds}" in printed, said
    code, _, said = command_line("estimate", *options, "--queries", 10**12)
    assert code == 0, said


def test_numbers_of_hundreds_of_digits_in_rows_spoil_their_row_alone(tmp_path, command_line):
    huge = int("9" * 400)
    odd = [
        {"prompt": "a", "output_1": "b", "output_2": "c", "label": huge},
        {"prompt": "a", "output_1": "b", "output_2": "c", "preference": huge},
        {"prompt": "a", "chosen": "b", "rejected": "c", "steering_margin": huge, "scores": [huge]},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", [*PAIRS, *odd])
    code, printed, said = command_line("judge", path, "--judge", "program:shorter", "--answers", tmp_path / "answers")
    assert code == 0 and "2 rows left out" in printed + said, said
    queries = [
        {"prompt": f"q {n}", "id": huge + n, "source": "augment:x", "provenance": {"depth": huge}} for n in range(4)
    ]
    path = write_jsonl(tmp_path / "queries.jsonl", queries)
    code, _, said = command_line(
        "run", "scripted", f"queries={path}", "queries.heldout=1", "--run-dir", tmp_path / "run"
    )
    assert code == 0, said


# --- folders of other commands, closed input, what can't be written


def sweep_file(folder: Path) -> Path:
    file = folder / "sweep.yaml"
    file.write_text("recipe: scripted\nvariants: {a: {}, b: {seed: 1}}\n")
    return file


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_in_the_folder_of_a_sweep_is_refused(tmp_path, command_line, finished):
    folder = tmp_path / "folder"
    assert command_line("sweep", sweep_file(tmp_path), "queries.limit=20", "--run-dir", folder, "--quiet")[0] == 0
    if not finished:
        for file in folder.glob("sweep.*"):
            file.unlink()
    before = sorted(folder.rglob("*"))
    (tmp_path / "reward.yaml").write_text("sets: {a: a.jsonl}")
    for command in (("run", "scripted"), ("run", "scripted", "--dry-run"), ("generate", "scripted"),
                    ("reward", tmp_path / "reward.yaml")):  # fmt: skip
        error = error_of(command_line(*command, "--run-dir", folder))
        assert error.startswith(f"this directory holds runs of `selfsteer sweep`\n  where: {folder}\n")
    assert sorted(folder.rglob("*")) == before
    assert command_line("sweep", sweep_file(tmp_path), "queries.limit=20", "--run-dir", folder, "--quiet")[0] == 0


def test_a_sweep_in_the_folder_of_a_run_is_refused(tmp_path, command_line, scripted_run):
    before = sorted(scripted_run.rglob("*"))
    for option in ((), ("--dry-run",)):
        error = error_of(command_line("sweep", sweep_file(tmp_path), "--run-dir", scripted_run, *option))
        assert error.startswith(f"this directory holds a run of `selfsteer run`\n  where: {scripted_run}\n")
    assert sorted(scripted_run.rglob("*")) == before


def test_a_run_beside_other_runs_is_no_run_in_a_sweep(tmp_path, command_line):
    for folder in (tmp_path / "one", tmp_path):
        assert command_line("run", "scripted", "queries.limit=20", "--run-dir", folder, "--quiet")[0] == 0


@pytest.mark.parametrize("kind", ["none", "closed"])
def test_a_person_cant_answer_where_stdin_is_closed(tmp_path, monkeypatch, command_line, kind):
    stdin = None
    if kind == "closed":
        stdin = (tmp_path / "empty").open("w+")
        stdin.close()
    monkeypatch.setattr(sys, "stdin", stdin)
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    error = error_of(command_line("judge", pairs, "--human", "me", "--answers", tmp_path / "answers"))
    assert error.startswith("there is no input to read answers from: stdin is closed\n  where: --human\n  do:    run")


@pytest.mark.parametrize("output", ["", ".", "/", "out.json"])
def test_an_output_without_a_name_is_refused(tmp_path, monkeypatch, command_line, output):
    monkeypatch.chdir(tmp_path)
    command = ("augment", "builtin:quickstart", "generation.backend=scripted", "--output", output)
    assert error_of(command_line(*command)).startswith("can't write '")
    assert not list(tmp_path.iterdir())


def test_an_empty_recipe_file_begins_nothing(tmp_path, monkeypatch, command_line):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "empty.yaml"
    recipe.write_text("# settings follow\n")
    for command in (("run",), ("run", "--dry-run"), ("generate",), ("estimate",), ("sweep",), ("reward",)):
        error = error_of(command_line(command[0], recipe, *command[1:]))
        assert error.startswith(f"the recipe is empty\n  where: {recipe}\n  do:    write the settings into it")
    assert list(tmp_path.iterdir()) == [recipe]


def test_figures_that_cant_be_written_are_shown(tmp_path, command_line, scripted_run):
    run_dir = tmp_path / "run"
    shutil.copytree(scripted_run, run_dir)
    (run_dir / "signal.json").mkdir()
    (run_dir / "signal.json/x").touch()
    found = command_line("evaluate", "signal", run_dir)
    assert error_of(found, 1).startswith("can't write: Is a directory\n  where: ")
    assert "round 1" in found[1] and "written" not in found[1]
    (run_dir / "signal.json/x").unlink()
    (run_dir / "signal.json").rmdir()
    code, printed, _ = command_line("evaluate", "signal", run_dir)
    assert code == 0 and printed.startswith(found[1]) and f"written  {run_dir / 'signal.json'}" in printed


def test_a_shard_that_is_gone_is_not_to_be_deleted(tmp_path):
    with pytest.raises(StorageError) as caught:
        list(read_rows([tmp_path / "gone.parquet"], Contrast))
    assert caught.value.what == "a stored shard is gone" and "delete" not in caught.value.do
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="delete that file"):
        list(read_rows([tmp_path / "torn.parquet"], Contrast))
