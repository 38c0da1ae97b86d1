"""Programs as judges: what they see, what comes of their value, how they are found and known again."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from selfsteer.errors import ConfigError, DataError, WorkFailed
from selfsteer.judges import Answer, AnswerCache, Pair, PresentedPair, judge_pairs
from selfsteer.judges.program import PROGRAMS, ProgramJudge, find_program
from selfsteer.quality.direction import compare_lengths, words

PAIR = Pair(
    id="pair-7",
    prompt=[{"role": "user", "content": "17 + 25 ="}],
    first="42",
    second="The answer is 43, I think",
    label=1,
    subset="sums",
    criterion="correctness",
    first_finish="stop",
    second_finish="length",
)


def arithmetic(pair: Pair) -> float:
    """Compare how far the last number of each answer is from the sum that was asked for."""
    one, other = map(int, re.findall(r"\d+", pair.prompt[-1]["content"]))

    def error(text: str) -> float:
        numbers = re.findall(r"-?\d+", text)
        return abs(int(numbers[-1]) - one - other) if numbers else 1000.0

    return error(pair.second) - error(pair.first)


def pair_of(first: str, second: str, finishes: tuple[str, str] = ("stop", "stop")) -> Pair:
    return replace(PAIR, first=first, second=second, first_finish=finishes[0], second_finish=finishes[1])


def test_an_arithmetic_checker_judges_both_orders_alike():
    pairs = [
        replace(PAIR, id=str(i), first=a, second=b)
        for i, (a, b) in enumerate([("42", "41"), ("7", "42"), ("42", "it is 42")])
    ]
    found = judge_pairs(ProgramJudge(arithmetic), pairs)
    assert [one.strict for one in found] == [1, -1, 0]
    assert [one.debiased for one in found] == [1, -1, 0]
    assert [one.log_odds for one in found] == [1.0, -35.0, 0.0]
    assert [one.outcome for one in found] == ["consistent", "consistent", "tie"]


def test_the_value_is_the_log_odds_and_its_sign_the_vote():
    values = {"a": 2.5, "b": -0.25, "c": 0}
    judge = ProgramJudge(lambda pair: values[pair.first])
    assert judge.answer([PresentedPair(pair_of(text, "x"), False) for text in "abc"]) == [
        Answer(1, 2.5),
        Answer(-1, -0.25),
        Answer(0, 0.0),
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_program_sees_the_order_shown_and_nothing_to_cheat_by(swapped):
    seen = []
    ProgramJudge(lambda pair: seen.append(pair) or 0.0).answer([PresentedPair(PAIR, swapped)])
    expected = replace(PAIR, id="", label=None, subset="")
    if swapped:
        expected = replace(expected, first=PAIR.second, second=PAIR.first, first_finish="length", second_finish="stop")
    assert seen == [expected]


def test_a_program_can_not_change_the_data():
    pair = replace(PAIR, prompt=[dict(message) for message in PAIR.prompt])
    ProgramJudge(lambda pair: float(pair.prompt.clear() or 0)).answer([PresentedPair(pair, False)])
    assert pair.prompt == PAIR.prompt


# --- what goes wrong in it


def broken(pair: Pair) -> float:
    return 1 / (len(pair.first) - len(pair.first))


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (broken, "the program failed: ZeroDivisionError: division by zero (test_program_judge.py, line "),
        (lambda pair: None, "the program failed: TypeError"),
        (lambda pair: "much better", "the program failed: ValueError"),
        (lambda: 1.0, "the program failed: TypeError"),
        (lambda pair: float("nan"), "the program returned nan"),
        (lambda pair: float("-inf"), "the program returned -inf"),
    ],
)
def test_a_failing_program_is_told_with_pair_and_program(program, what):
    with pytest.raises(WorkFailed) as caught:
        ProgramJudge(program, name="mine").answer([PresentedPair(PAIR, True)])
    assert what in caught.value.what
    assert caught.value.where == "pair 'pair-7', program 'mine'"


def test_errors_of_our_own_and_interrupts_pass_through():
    def raising(error):
        def program(pair):
            raise error

        return program

    for error in (DataError("bad row"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            ProgramJudge(raising(error)).answer([PresentedPair(PAIR, False)])


# --- the programs that come with the package

LENGTHS = [
    (("a b c", "stop"), ("a b", "stop"), 1),
    (("a b", "stop"), ("a  b\nc", "stop"), -1),
    (("a b", "stop"), ("cc dd", "stop"), 0),
    (("a b c", "length"), ("a b", "stop"), 1),  # cut, and longer already
    (("a b", "length"), ("a b c", "stop"), 0),  # cut while shorter: it might have gone on for longer
    (("a b", "length"), ("a b", "stop"), 0),
    (("a b c", "length"), ("a b", "length"), 0),
]


@pytest.mark.parametrize(("first", "second", "longer"), LENGTHS)
def test_longer_and_shorter_count_words_and_know_of_cuts(first, second, longer):
    pair = pair_of(first[0], second[0], (first[1], second[1]))
    other = pair_of(second[0], first[0], (second[1], first[1]))
    assert [PROGRAMS[name](pair) for name in ("longer", "shorter")] == [longer, -longer]
    assert [PROGRAMS[name](other) for name in ("longer", "shorter")] == [-longer, longer]


@pytest.mark.parametrize(("first", "second", "longer"), LENGTHS)
def test_the_comparison_is_that_of_quality_control(first, second, longer):
    lengths = words(first[0]), words(second[0])
    assert compare_lengths(lengths, (first[1], second[1])) == longer


@pytest.mark.parametrize("valid", ['{"a": [1, 2.5e3, null]}', " [] \n", '"text"', "9" * 6000, "-1.5"])
@pytest.mark.parametrize("invalid", ["", "{'a': 1}", '{"a": 1,}', "NaN", "[Infinity]", "Sure! {}", "[" * 100_000])
def test_the_one_that_parses_as_json_wins(valid, invalid):
    program = PROGRAMS["valid_json"]
    assert program(pair_of(valid, invalid)) == 1
    assert program(pair_of(invalid, valid)) == -1
    assert program(pair_of(valid, valid)) == program(pair_of(invalid, invalid)) == 0


# --- finding programs

SOURCE = """
from helper_of_ours import LIMIT

THRESHOLD = LIMIT + 1

def by_length(pair):
    return len(pair.first) - THRESHOLD

TABLE = {}
"""


@pytest.fixture
def program_file(tmp_path) -> Path:
    (tmp_path / "helper_of_ours.py").write_text("LIMIT = 4\n")
    path = tmp_path / "my judge.py"
    path.write_text(SOURCE)
    return path


def test_built_in_programs_are_found_by_name():
    assert all(find_program(name) is program for name, program in PROGRAMS.items())
    assert list(PROGRAMS) == ["shorter", "longer", "valid_json"]
    assert ProgramJudge(find_program("shorter")).name == "shorter"


def test_a_function_of_a_file_is_found_and_runs_with_its_neighbours(program_file):
    program = find_program(f"{program_file}:by_length")
    assert program(pair_of("seven s", "")) == 2
    assert ProgramJudge(program).name == "by_length"
    assert not (program_file.parent / "__pycache__" / "my judge.cpython-311.pyc").exists()


def test_a_function_of_a_module_is_found_installed_or_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "module_of_ours.py").write_text("def judge(pair):\n    return 3.0\n")
    monkeypatch.chdir(tmp_path)
    assert find_program("module_of_ours:judge")(PAIR) == 3.0
    assert find_program(f"{__name__}:arithmetic") is arithmetic


def test_the_search_path_is_left_as_it_was(program_file):
    before = list(sys.path)
    find_program(f"{program_file}:by_length")
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shortr", r"unknown judge program 'shortr'(.|\n)*Did you mean 'shorter'.*package.module:function"),
        (":longer", "unknown judge program"),
        ("longer:", "unknown judge program"),
        ("no_such_module_of_ours:judge", "ModuleNotFoundError: No module named 'no_such_module_of_ours'$"),
        ("nowhere/judge.py:judge", "no such file: .*nowhere/judge.py"),
        ("json:dumbs", r"no function 'dumbs' in json(.|\n)*Did you mean 'dumps'"),
        ("..x:judge", "can't import the program"),
    ],
)
def test_what_is_no_program_is_refused_with_a_guess(spec, message):
    with pytest.raises(ConfigError, match=f"(?m){message}"):
        find_program(spec)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def judge(pair:\n", r"SyntaxError: .*\(mine\.py, line 1\)$"),
        ("x = 1\ny = undefined\n", r"NameError: name 'undefined' is not defined \(mine\.py, line 2\)$"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(mine\.py, line 2\)$"),
        ("judge = 5\n", "'judge' is not a function"),
        ("def jugde(pair): return 0\n", r"no function 'judge'(.|\n)*Did you mean 'jugde'"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path, source, message):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=f"(?m){message}"):
        find_program(f"{path}:judge")


# --- knowing them again


def key_of(path: Path, source: str, name: str = "judge") -> str:
    path.write_text(source)
    return ProgramJudge(find_program(f"{path}:{name}")).key


def test_an_edited_program_is_another_one_and_the_same_text_the_same(tmp_path):
    path = tmp_path / "mine.py"
    source = "def grade(x): return len(x)\ndef judge(pair): return grade(pair.first)\n"
    first = key_of(path, source)
    assert key_of(path, source) == first
    assert key_of(tmp_path / "moved.py", source) == first
    assert key_of(path, source.replace("return grade(pair.first)", "return -grade(pair.first)")) != first
    assert key_of(path, source.replace("len(x)", "-len(x)")) != first  # a function that it calls
    assert key_of(path, source, "grade") != first


@pytest.mark.parametrize(
    "statement",
    [
        "from helpers import grade",
        "import helpers as known",
        "from helpers import *",
        "import pack.middle",
    ],
)
def test_a_module_beside_it_that_it_imports_counts_and_others_do_not(tmp_path, statement):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    (tmp_path / "pack/middle.py").write_text("from . import last\nfrom .last import grade\n")
    (tmp_path / "pack/last.py").write_text("import helpers\ngrade = helpers.grade\n")
    (tmp_path / "helpers.py").write_text("import json\n\ndef grade(text): return len(text)\n")
    source = f"{statement}\ndef judge(pair): return 1.0\n"
    first = key_of(tmp_path / "mine.py", source)
    (tmp_path / "notes.py").write_text("# of nobody\n")
    assert key_of(tmp_path / "mine.py", source) == first
    (tmp_path / "helpers.py").write_text("def grade(text): return -len(text)\n")
    assert key_of(tmp_path / "mine.py", source) != first


def test_answers_of_a_program_are_not_asked_again_until_it_is_edited(tmp_path):
    path, calls = tmp_path / "mine.py", tmp_path / "calls"
    source = (
        f"def judge(pair):\n    with open({str(calls)!r}, 'a') as out:\n        out.write('x')\n    return {{value}}\n"
    )
    for value, asked in ((1, 2), (1, 2), (2, 4)):
        path.write_text(source.format(value=value))
        judge = ProgramJudge(find_program(f"{path}:judge"))
        (found,) = judge_pairs(judge, [PAIR], AnswerCache(tmp_path / "answers.jsonl"))
        assert found.forward.log_odds == value
        assert len(calls.read_text()) == asked


class Counter:
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, pair: Pair) -> float:
        return self.limit

    def method(self, pair: Pair) -> float:
        return self.limit

    def __repr__(self) -> str:
        return f"Counter({self.limit})"


def with_limit(pair: Pair, limit: int) -> float:
    return limit


def made_with(limit: int):
    return lambda pair: limit


@pytest.mark.parametrize(
    "make", [made_with, Counter, lambda n: Counter(n).method, lambda n: partial(with_limit, limit=n)]
)
def test_the_values_that_a_program_holds_count(make):
    keys = [ProgramJudge(make(limit)).key for limit in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]


def test_a_program_without_readable_source_is_known_by_its_name():
    scope: dict = {"__name__": "nowhere"}
    exec("def one(pair): return 1.0\ndef two(pair): return 2.0", scope)
    keys = [ProgramJudge(scope[name]).key for name in ("one", "one", "two")]
    assert keys[0] == keys[1] != keys[2]
    assert ProgramJudge(max).name == "max" and ProgramJudge(partial(with_limit, limit=1)).name == "with_limit"
