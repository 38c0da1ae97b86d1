"""From options as objects to the flat function that typer reads, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from selfsteer.commands.options import LoadingArguments, from_options, judge_settings_of
from selfsteer.errors import ConfigError


@dataclass(frozen=True)
class Group:
    depth: Annotated[int, typer.Option(help="How deep.")] = 2
    names: Annotated[list[str], typer.Option("--name")] = field(default_factory=list)


@dataclass(frozen=True)
class Arguments:
    source: Annotated[str, typer.Argument(help="From here.")]
    target: Annotated[str, typer.Option()]
    group: Group = field(default_factory=Group)
    loud: Annotated[bool, typer.Option("--loud")] = False


@dataclass(frozen=True)
class Deeper(Group):
    depth: Annotated[int, typer.Option()] = 7


seen: list[object] = []


def command(arguments: Arguments) -> NotThere:  # noqa: F821  # as where its module is imported only when it runs
    """Do it.

    Raises:
        Nothing: Of it all.
    """
    seen.append(arguments)


def with_two(deeper: Deeper, word: Annotated[str, typer.Argument()] = "none") -> None:
    seen.append((deeper, word))


@pytest.fixture
def call():
    """Call a command by its options; returns what it got."""

    def run(function, *arguments):
        seen.clear()
        app = typer.Typer()
        app.command()(from_options(function))
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return seen[0] if seen else result.output

    return run


def test_fields_are_options_and_groups_are_filled(call):
    found = call(command, "here", "--target", "there", "--depth", "5", "--name", "a", "--name", "b", "--loud")
    assert found == Arguments("here", "there", Group(5, ["a", "b"]), True)
    assert call(command, "here", "--target", "there") == Arguments("here", "there")


def test_a_subclass_and_plain_parameters_go_together(call):
    assert call(with_two) == (Deeper(), "none") and Deeper().depth == 7
    assert call(with_two, "--depth", "1", "word") == (Deeper(1), "word")


def test_the_help_is_the_first_paragraph_with_the_options_in_the_order_of_the_fields(call):
    shown = call(command, "--help")
    assert "Do it." in shown and "Raises" not in shown and "How deep." in shown
    places = [shown.index(option) for option in ("--target", "--depth", "--name", "--loud")]
    assert places == sorted(places)


def test_two_groups_with_one_option_are_refused():
    def twice(one: Group, other: Group) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name"):
        from_options(twice)


@dataclass(frozen=True)
class Judging:
    mode: str
    loading: LoadingArguments
    seed: int = 3


def test_judge_settings_are_found_in_any_group():
    loading = LoadingArguments(device="cpu", chat_template_kwargs=["enable_thinking=false", "n=3"])
    settings = judge_settings_of(Judging("text", loading))
    assert (settings.mode, settings.device) == ("text", "cpu")
    assert settings.chat_template_kwargs == {"enable_thinking": False, "n": 3}
    with pytest.raises(ConfigError, match="logprobs") as caught:
        judge_settings_of(Judging("words", LoadingArguments()))
    assert caught.value.where == "--mode"
