"""Options as frozen dataclasses: one field an option, groups of shared options as fields of their own.

A command takes such an object; :func:`from_options` makes the flat function that typer reads the options from.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from selfsteer.limits import LARGEST

if TYPE_CHECKING:
    from selfsteer.config import JudgeSettings


def count_option(*, least: int = 1, **options: Any) -> Any:
    """Return the option of a count, from ``least`` to the largest that can be computed with."""
    return typer.Option(min=least, max=LARGEST, **options)


RunDir = Annotated[Path | None, typer.Option(help="Directory for all files of the run.", show_default="runs/NAME")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show which stages are done, to do or to redo, and why; run none.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
MaxTokens = Annotated[
    int | None,
    count_option(
        help="Mode text: maximum tokens of a reply, thoughts included (default: 16, plus 2,048 where the model may "
        "think).",
    ),
]


@dataclass(frozen=True)
class LoadingArguments:
    """How a model on this machine is loaded."""

    device: Annotated[str, typer.Option(help="Device of a local model: auto, cpu, cuda, cuda:1, mps.")] = "auto"
    precision: Annotated[str, typer.Option(help="auto (float32 for reward models), bfloat16 or float32.")] = "auto"
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model.")
    ] = False
    chat_template_kwargs: Annotated[
        list[str],
        typer.Option(
            "--chat-template-kwargs",
            metavar="NAME=VALUE",
            help="A variable of the models' chat templates, e.g. enable_thinking=false; can be repeated.",
        ),
    ] = field(default_factory=list)


@dataclass(frozen=True)
class EndpointArguments:
    """How a server of models is reached."""

    base_url: Annotated[
        str | None, typer.Option(help="URL of the endpoint.", show_default="what OPENAI_BASE_URL holds")
    ] = None
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the endpoint's key.")] = (
        "OPENAI_API_KEY"
    )


@dataclass(frozen=True)
class JudgingArguments:
    """The judges, the pairs they see, how they are reached, and where answers and figures go."""

    names: Annotated[
        list[str],
        typer.Option(
            "--judge",
            help="A chat model, reward:MODEL, implicit:POLICY@REFERENCE, endpoint:MODEL or program:NAME; can be "
            "repeated.",
        ),
    ] = field(default_factory=list)
    mode: Annotated[str, typer.Option(help="How a language model answers: logprobs or text.")] = "logprobs"
    max_tokens: MaxTokens = None
    template: Annotated[str | None, typer.Option(help="Your own Jinja file for the question.")] = None
    per_token: Annotated[
        bool | None,
        typer.Option(
            "--per-token/--summed",
            help="implicit: compare means per token, or sums. Default: as the loss that trained the policy, else sums.",
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Judge a random sample of this many pairs of each file.")] = None
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0
    split: Annotated[
        str | None, typer.Option(help="Split of hub data sets and of folders of one.", show_default="train")
    ] = None
    loading: LoadingArguments = field(default_factory=LoadingArguments)
    endpoint: EndpointArguments = field(default_factory=EndpointArguments)
    answers: Annotated[
        Path | None, typer.Option(help="Folder that keeps the answers.", show_default="the cache folder")
    ] = None
    json_file: Annotated[Path | None, typer.Option("--json", help="Write figures and verdicts to this file.")] = None


def from_options(command: Callable[..., Any]) -> Callable[..., None]:
    """Return a command as typer takes it: one parameter an option, the first paragraph of its docstring as its help.

    A parameter of ``command`` that is a dataclass stands for its fields, and a field that is a dataclass for its own.
    """
    parameters = inspect.signature(command).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(**{name: _filled(name, hints[name], values) for name in parameters})

    # Without the return type, whose module is imported only where the command runs.
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    hints = get_type_hints(run, include_extras=True)
    leaves = [leaf for name in parameters for leaf in _leaves(name, hints[name], parameters[name].default)]
    run.__signature__ = inspect.Signature(leaves)  # type: ignore[attr-defined]
    run.__doc__ = (command.__doc__ or "").partition("\n\n")[0]
    return run


def _leaves(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """Yield the options that a parameter or field stands for, in the order of the help."""
    if not is_dataclass(hint):
        # Keywords may come in any order, so an option without default may follow one that has a default.
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for one in fields(hint):
        own = one.default if one.default_factory is MISSING else one.default_factory()
        yield from _leaves(one.name, hints[one.name], inspect.Parameter.empty if own is MISSING else own)


def _filled(name: str, hint: Any, values: Mapping[str, Any]) -> Any:
    """Return the value of a parameter or field: an option, or an object of the options that it stands for."""
    if not is_dataclass(hint):
        return values[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{one.name: _filled(one.name, hints[one.name], values) for one in fields(hint)})  # type: ignore[operator]


def judge_settings_of(arguments: Any) -> JudgeSettings:
    """Return the settings of judges among a command's options, whatever group they are in; raises ConfigError."""
    from selfsteer.config import JudgeSettings, judge_settings, template_kwargs

    given = {name: value for name, value in _flat(arguments) if name in JudgeSettings.model_fields}
    return judge_settings(given | {"chat_template_kwargs": template_kwargs(given["chat_template_kwargs"])})


def _flat(arguments: Any) -> Iterator[tuple[str, Any]]:
    for one in fields(arguments):
        value = getattr(arguments, one.name)
        yield from _flat(value) if is_dataclass(value) else [(one.name, value)]
