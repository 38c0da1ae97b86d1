"""Programs as judges: where a rule can decide which response is better, it is exact, free and can be inspected."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import json
import math
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError, SelfsteerError, WorkFailed, did_you_mean
from selfsteer.files import fingerprint, home_expanded
from selfsteer.judges.answer_cache import Answer
from selfsteer.judges.base import Pair, PresentedPair
from selfsteer.quality.direction import compare_lengths, words

Program = Callable[[Pair], float]
"""Positive: ``pair.first`` is better; negative: ``pair.second``; 0: a tie."""

_FORMS = '"package.module:function" or "path/to/file.py:function"'


def _longer(pair: Pair) -> float:
    """The longer response in words, as quality control counts them; a tie where a cut-off hides which it is."""
    lengths = words(pair.first), words(pair.second)  # a run's direction programs count sampled tokens instead
    return compare_lengths(lengths, (pair.first_finish, pair.second_finish))


def _shorter(pair: Pair) -> float:
    """The shorter response in words; a tie where a cut-off hides which it is."""
    return -_longer(pair)


def _valid_json(pair: Pair) -> float:
    """The response that is a JSON value and nothing else; a tie if both are or neither is."""
    return _is_json(pair.first) - _is_json(pair.second)


PROGRAMS: dict[str, Program] = {"shorter": _shorter, "longer": _longer, "valid_json": _valid_json}


class ProgramJudge:
    """A Python function as a judge; its value is the log-odds, the value's sign the vote.

    The same pair must give the same value. For tables it has its own name unless another is given.
    """

    batch_size = 64

    def __init__(self, program: Program, name: str | None = None) -> None:
        self.program = program
        own = next((own for own, known in PROGRAMS.items() if known is program), None)
        function = program.func if isinstance(program, functools.partial) else program
        self.name = name or own or str(getattr(function, "__name__", type(function).__name__))
        self.key = fingerprint(["program", *_source(program)])

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return one answer a presentation; :class:`WorkFailed` if the program fails or returns no finite number."""
        return [self._answer(one) for one in shown]

    def _answer(self, shown: PresentedPair) -> Answer:
        where = f"pair {shown.pair.id!r}, program {self.name!r}"
        try:
            # In the order shown, and without id, label and subset, which the program must not use.
            pair = replace(shown.pair, id="", label=None, subset="", prompt=copy.deepcopy(shown.pair.prompt))
            first, second = shown.responses
            pair = replace(
                pair, first=first, second=second, first_finish=shown.finishes[0], second_finish=shown.finishes[1]
            )
            value = float(self.program(pair))
        except SelfsteerError:  # a program may raise our own, which have their advice
            raise
        except Exception as error:
            what = f"the program failed: {_in_words(error)}"
            raise WorkFailed(what, where=where, do="correct it; for a pair that it can't judge it returns 0") from error
        if not math.isfinite(value):
            do = "return a positive number (first is better), a negative one (second) or 0 (a tie)"
            raise WorkFailed(f"the program returned {value}, which is not a comparison", where=where, do=do)
        return Answer((value > 0) - (value < 0), log_odds=value)


def open_judge(settings: JudgeSettings, name: str) -> ProgramJudge:
    """Return a program as a judge; raises as :func:`find_program`."""
    return ProgramJudge(find_program(name))


def find_program(spec: str) -> Program:
    """Return the program that ``spec`` names; its module or file is run (:class:`ConfigError` where that fails).

    Args:
        spec: A name of :data:`PROGRAMS`, "package.module:function" (installed, or in the working directory), or
            "path/to/file.py:function".
    """
    if spec in PROGRAMS:
        return PROGRAMS[spec]
    source, separator, function = spec.rpartition(":")
    if not (separator and source and function):
        do = f"{did_you_mean(spec, PROGRAMS)}; or give your own: {_FORMS}"
        raise ConfigError(f"unknown judge program {spec!r}", do=do)
    if source.endswith(".py"):
        module = _run_file(home_expanded(source), spec)
    else:
        with _import_errors(spec), _importable(Path.cwd()):
            module = importlib.import_module(source)
    found = getattr(module, function, None)
    if callable(found):
        return found
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    what = f"no function {function!r} in {source}" if found is None else f"{function!r} is not a function"
    raise ConfigError(what, where=f"program {spec!r}", do=did_you_mean(function, own))


def _is_json(text: str) -> bool:
    """Return whether a text is one JSON value; numbers may have any length."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is Python's, not JSON's")  # NaN, Infinity

    try:
        json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _source(program: Any) -> list[str]:
    """Return the dependencies of a program's answers: its name, its module's source, and the values it holds."""
    if isinstance(program, functools.partial):
        return [*_source(program.func), repr(program.args), repr(sorted(program.keywords.items()))]
    if inspect.ismethod(program):
        return [*_source(program.__func__), repr(program.__self__)]
    if not inspect.isfunction(program):
        kind = type(program)
        return [kind.__qualname__, _text_around(kind), repr(sorted(getattr(program, "__dict__", {}).items()))]
    held = [cell.cell_contents for cell in program.__closure__ or ()]  # what the function was made with
    return [program.__qualname__, _text_around(program), repr([held, program.__defaults__, program.__kwdefaults__])]


def _text_around(owner: Any) -> str:
    """Return the source of a function's or a class's module and of the modules beside it that it imports.

    If the module can't be read it is the owner's own source, or else the name of the module.
    """
    # The whole module: it holds the functions and constants that the program uses.
    module = inspect.getmodule(owner)
    for thing in (module, owner):
        try:
            text = inspect.getsource(thing)  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed into an interpreter, or written in C
            continue
        return "\n".join([text, *(path.read_text(encoding="utf-8", errors="replace") for path in _beside(module))])
    return str(owner.__module__)


def _beside(module: types.ModuleType | None) -> list[Path]:
    """Return the files that a module imports from its own folder or package, directly or through them."""
    package = getattr(module, "__package__", "") or ""
    own, file = package.partition(".")[0], Path(getattr(module, "__file__", None) or "")
    # selfsteer's own programs change with a release only. The folder site-packages holds everything that is installed.
    if own == "selfsteer" or not file.is_file() or (not own and "site-packages" in file.parts):
        return []
    root = file.parents[len(package.split("."))] if own else file.parent
    found: dict[Path, None] = {file: None}
    waiting = [file]
    while waiting:
        new = [path for path in _imported(waiting.pop(), root) if path.is_relative_to(root / own) and path not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return list(found)[1:]


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files under ``root`` that the import statements of a file name."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names: list[str] = []
        start = root
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = file.parents[node.level - 1] if node.level else root
            names = [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
        for name in names:
            place = start.joinpath(*filter(None, name.split(".")))
            yield from filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))


def _run_file(path: Path, spec: str) -> types.ModuleType:
    """Run a file as a module of its own, without writing bytecode beside it."""
    if not path.is_file():
        do = f"check the path; or give {did_you_mean(spec, PROGRAMS)}"
        raise ConfigError(f"no such file: {path.absolute()}", where=f"program {spec!r}", do=do)
    module = types.ModuleType(f"selfsteer_program_{path.stem}_{fingerprint(str(path.resolve()))}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # where dataclasses and inspect look up a function's module
    with _import_errors(spec), _importable(path.resolve().parent):
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make modules of ``folder`` importable, as Python does for the script that it runs."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have removed it itself
            sys.path.remove(str(folder))


@contextmanager
def _import_errors(spec: str) -> Iterator[None]:
    """Turn whatever the user's module raises into a :class:`ConfigError`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        do = f"correct it, or give another: {_FORMS}"
        raise ConfigError(f"can't import the program: {_in_words(error)}", where=f"program {spec!r}", do=do) from error


def _in_words(error: BaseException) -> str:
    """Return an error's type and text, and the line of the user's code that raised it."""
    machinery = (__file__, importlib.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename not in machinery and not frame.filename.startswith("<frozen")]  # fmt: skip
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{at}"
