"""A person judges in the terminal: fed lines, and single keys from a pseudo-terminal."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from selfsteer.judges import AnswerCache, Judgement, Pair
from selfsteer.judges.human import HumanJudge, collect
from selfsteer.judges.human_terminal import ask_in_terminal, reader
from tests.chat_templates import user
from tests.judges.human_example import pair, pairs


def read(wanted: list[Pair], lines: str, cache: AnswerCache | None = None) -> tuple[str, list[Judgement]]:
    """Return what the terminal shows to a reader who types these lines, and the judgements."""
    screen = io.StringIO()
    console = Console(file=screen, width=80, highlight=False)
    typed = io.StringIO(lines)
    found = collect(
        HumanJudge("Ann"),
        wanted,
        AnswerCache(None) if cache is None else cache,
        lambda sitting: ask_in_terminal(sitting, console=console, read=reader(typed)),
    )
    return screen.getvalue(), found


def test_a_whole_session():
    screen, found = read(pairs(2), "1\n2\n=\n1\n\n")
    assert [f"{number} of 4" in screen for number in range(1, 6)] == [True] * 4 + [False]
    assert "All answered" in screen
    assert screen.count("Response 1") == screen.count("Response 2") == 4
    assert len(found) == 2
    assert "4 of 4 answered; 2 of 2 pairs are complete" in screen


def test_the_end_of_the_input_and_q_stop_with_everything_kept(tmp_path):
    path = tmp_path / "answers.jsonl"
    screen, found = read(pairs(2), "1\n", AnswerCache(path))
    assert "1 of 4 answered" in screen
    screen, found = read(pairs(2), "1\n1\nq\n1\n", AnswerCache(path))
    assert "q stop here" in screen
    assert "1 of 4" not in screen
    assert "3 of 4 answered; 1 of 2 pairs are complete" in screen
    assert len(found) == 1


def test_an_interrupt_says_what_is_kept_and_passes_on():
    answers: Iterator[Any] = iter(["1\n"])

    def interrupted() -> str:
        for line in answers:
            return line
        raise KeyboardInterrupt

    screen, cache = io.StringIO(), AnswerCache(None)
    console = Console(file=screen, width=80)
    with pytest.raises(KeyboardInterrupt):
        collect(
            HumanJudge("Ann"),
            pairs(2),
            cache,
            lambda sitting: ask_in_terminal(sitting, console=console, read=interrupted),
        )
    assert "1 of 4 answered" in screen.getvalue()
    assert "2 of 4" in read(pairs(2), "q\n", cache)[0], "the next sitting goes on behind the answer"


def test_back_and_skip():
    screen, found = read(pairs(1), "1\nu\ns\n=\n=\nu\n1\n\n")
    assert "You answered this one before; that answer counts until you give another." in screen
    assert len(found) == 1
    assert sorted(found[0].votes, key=abs) in ([0, 1], [0, -1])
    assert "You skipped this one before." in read(pairs(1), "s\n1\n=\n\n")[0]


def test_a_wrong_key_is_told_and_changes_nothing():
    screen, found = read(pairs(1), "3\n12\n\nu\n1\n1\n1\nq\n")
    assert "'3' is none of the keys." in screen
    assert "'12' is none of the keys." in screen
    assert "'' is none of the keys." in screen
    assert "There is nothing in this session to go back to." in screen
    assert "All is answered, so '1' does nothing." in screen
    assert len(found) == 1


def test_all_turns_the_criterion_and_a_cut_are_shown():
    turns = [
        {"role": "system", "content": "You help."},
        *user("Hi"),
        {"role": "assistant", "content": "Yes?"},
        *user("Sum"),
    ]
    screen, _ = read([pair(1, prompt=turns, criterion="brevity", first_finish="length", second=" ")], "q\n")
    places = [screen.index(text) for text in ("System", "You help.", "Hi", "Assistant", "Yes?", "Sum", "Response 1")]
    assert places == sorted(places)
    assert "Judge by: brevity" in screen
    assert screen.count("cut off at the length limit") == 1
    assert screen.count("(empty)") == 1


def test_texts_act_neither_on_the_terminal_nor_as_markup():
    hostile = "\x1b]0;owned\x07[bold red]loud[/] :smile: \x9b2J [/nothing]"
    wanted = pair(1, prompt=user(hostile), first=hostile, second="b\x1b[2J", criterion=hostile)
    screen, _ = read([wanted], "\x1b[A\nq\n")
    assert not any((ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0 for char in screen)
    assert screen.count("␛]0;owned␇[bold red]loud[/] :smile: �2J [/nothing]") == 3
    assert "'␛[a' is none of the keys." in screen


def test_nothing_shown_tells_the_responses_apart():
    screen, _ = read([pair(1, label=1)], "1\n1\n\n")
    assert "secret" not in screen


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_takes_single_keys():
    ours, theirs = os.openpty()
    found = []
    with os.fdopen(theirs, "r") as stream:
        take = reader(stream)
        for key in "1=2q":
            os.write(ours, b"s\n")  # pressed before the prompt, so thrown away
            select.select([stream], [], [], 5)  # until it has arrived
            presser = threading.Thread(target=_press, args=(ours, key))
            presser.start()
            found.append(take())
            presser.join()
    os.close(ours)
    assert found == list("1=2q")


def _press(terminal: int, key: str) -> None:
    """Press a key as soon as the terminal takes single ones."""
    import termios

    latest = time.monotonic() + 5
    while termios.tcgetattr(terminal)[3] & termios.ICANON and time.monotonic() < latest:
        time.sleep(0.005)
    os.write(terminal, key.encode())
