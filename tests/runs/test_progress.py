"""What a run says while it works."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from selfsteer.runs import progress as module
from selfsteer.runs.progress import Display, clock, size


class Said:
    """A display whose words are kept, and whose time is told by hand."""

    def __init__(self, *, terminal: bool = False) -> None:
        self.stream, self.now = io.StringIO(), 100.0
        console = Console(file=self.stream, force_terminal=terminal, width=120, color_system=None)
        self.display = Display(console)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def said(request, monkeypatch) -> Said:
    made = Said(terminal=getattr(request, "param", False))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_without_a_terminal_a_stage_is_a_line_at_its_start_and_one_at_its_end(said):
    with said.display as display:
        display.plan([1, 2])
        display.begin("read queries", 3)
        said.now += 75
        display.finish("read queries", reused=False, note=": 3 to align on")
        display.finish("choose aspects", reused=True)
    assert said.lines == [
        "[1/2] read queries ...",
        "[1/2] read queries: done in 1 min 15 s: 3 to align on",
        "[2/2] choose aspects: done before",
    ]


def test_a_long_stage_tells_at_each_quarter_how_long_to_go(said):
    """Stage one cost 10 and took 21 s, so a unit of cost is (21 + 1) / (10 + 1) = 2 s: 60 s for the last stage."""
    with said.display as display:
        display.plan([10, 10, 30])
        display.begin("one", 1)
        said.now += 21
        display.finish("one", reused=False)
        display.begin("two", 8)
        for _ in range(8):
            said.now += 5
            display.advance()
    assert said.lines[3:] == [
        "[2/3]   25% after 10 s, 30 s left; run: 1 min 30 s to go",
        "[2/3]   50% after 20 s, 20 s left; run: 1 min 20 s to go",
        "[2/3]   75% after 30 s, 10 s left; run: 1 min 10 s to go",
    ]


def test_a_training_of_hours_shows_its_figures_every_few_minutes(said):
    with said.display as display:
        display.plan([1])
        display.begin("train", 1000)
        for step in range(1, 9):
            said.now += 100
            display.figures(f"loss {step}")
            display.advance()
        display.finish("train", reused=False)
    assert [line.partition(" left; ")[2] for line in said.lines[1:-1]] == [
        f"loss {step}; run: {clock(100 * (1000 - step))} to go" for step in (2, 4, 6, 8)
    ]


def test_stages_found_done_say_nothing_about_the_speed(said):
    with said.display as display:
        display.plan([1000, 1, 60])
        display.finish("one", reused=True)
        display.begin("two", 4)
        said.now += 1
        display.advance(1)
    assert said.lines[-1].endswith("run: 1 min 03 s to go")  # 3 s here, 60 at 1 s a unit


def test_a_stage_without_units_is_no_trouble(said):
    with said.display as display:
        display.begin("nothing to do", 0)
        said.now += 100
        display.advance(0)
        display.advance(1)
        display.finish("nothing to do", reused=False)
    assert said.lines == ["[1/1] nothing to do ...", "[1/1] nothing to do: done in 1 min 40 s"]


def test_more_stages_than_were_planned_and_none_at_all(said):
    with said.display as display:
        display.advance()
        display.plan([])
        for title in ("one", "two"):
            display.begin(title, 1)
            display.finish(title, reused=False)
    assert [line.split(" ")[0] for line in said.lines] == ["[1/1]", "[1/1]", "[2/2]", "[2/2]"]


def test_a_line_is_printed_as_it_is(said):
    """No markup: a path in brackets is no style tag. No wrapping: a log is searched line by line."""
    line = "from [/data/new] and [bold]models[/bold] " + "x" * 200
    said.display.say(line)
    assert said.lines == [line]


@pytest.mark.parametrize("said", [True], indirect=True, ids=["terminal"])
def test_on_a_terminal_bars_show_units_and_no_absurd_time(said):
    with said.display as display:
        display.plan([1, 2])
        display.begin("sample responses", 24)
        said.now += 50
        for units in (0, 6, 30):  # no query was left out; some are done; more than was told
            display.advance(units)
            display._bars.refresh()  # as their own thread does ten times a second
        display.finish("sample responses", reused=False)
        display.begin("nothing", 0)
        said.now += 50
        display.advance(1)
        display._bars.refresh()
        display.finish("nothing", reused=False)
    assert "whole run" in said.text and "6/24" in said.text and "2 min 30 s left" in said.text
    assert not re.search(r"-\d+ s|\d{3,} h", said.text)
    assert "..." not in said.text


def test_a_quiet_display_says_nothing(capsys):
    with Display(quiet=True) as display:
        display.begin("one", 1)
        display.advance()
        display.finish("one", reused=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("said", [True], indirect=True, ids=["terminal"])
def test_an_error_inside_is_passed_on_and_the_terminal_is_given_back(said):
    with pytest.raises(KeyError), said.display as display:
        display.begin("one", 1)
        raise KeyError
    assert said.text.endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7530, "2 h 05 min"),
        (172740, "47 h 59 min"),
        (360000, "4 days 4 h"),
    ],
)
def test_seconds_as_people_read_them(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (34_560_000, "34.6 MB"), (999_700, "1 MB"), (2.5e12, "2.5 TB")]
)
def test_bytes_as_people_read_them(number, text):
    assert size(number) == text


def test_a_title_with_markup_is_shown_as_it_is():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Display(console) as display:
        display.plan([1.0])
        display.begin("ask [/b] [red]x", 2)
        display.advance(1)
    assert "ask [/b] [red]x" in console.file.getvalue()
