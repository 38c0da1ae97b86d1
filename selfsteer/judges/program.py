"""Programs as judges: where a rule can tell which response is better, it is exact, free and open to inspection."""

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

from selfsteer.errors import ConfigError, SelfsteerError, WorkFailed, did_you_mean
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import Answer
from selfsteer.judges.base import Pair, PresentedPair
from selfsteer.quality.direction import compare_lengths, words

Program = Callable[[Pair], float]
"""Positive: ``pair.first`` is better; negative: ``pair.second``; 0: a tie."""

_FORMS = '"package.module:function" or "path/to/file.py:function"'


def _longer(pair: Pair) -> float:
    """The longer response in words, as quality control counts them; a tie where a cut hides which it is."""
    lengths = words(pair.first), words(pair.second)
    return compare_lengths(lengths, (pair.first_finish, pair.second_finish))


def _shorter(pair: Pair) -> float:
    """The shorter response in words; a tie where a cut hides which it is."""
    return -_longer(pair)


def _valid_json(pair: Pair) -> float:
    """The response that is a JSON value and nothing else; a tie where both are or neither is."""
    return _is_json(pair.first) - _is_json(pair.second)


PROGRAMS: dict[str, Program] = {
    "shorter": _shorter,
    "longer": _longer,
    "valid_json": _valid_json,
}


class ProgramJudge:
    """A Python function as a judge; its value is the log-odds, the value's sign the vote.

    The program sees a pair in the order shown and without its id, label and subset, so that it can't go by them.

    Args:
        program: Compares ``pair.first`` with ``pair.second``; the same pair must give the same value.
        name: For tables; None takes the program's own.
    """

    batch_size = 64

    def __init__(self, program: Program, name: str | None = None) -> None:
        self.program = program
        self.name = name or _name_of(program)
        self.key = fingerprint(["program", *_source(program)])

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Return one answer a presentation, in order.

        Raises:
            WorkFailed: The program raised an error, or returned no finite number.
        """
        return [self._answer(one) for one in shown]

    def cost(self, shown: PresentedPair) -> int:
        """Return 0: a program judges one presentation at a time."""
        return 0

    def _answer(self, shown: PresentedPair) -> Answer:
        where = f"pair {shown.pair.id!r}, program {self.name!r}"
        try:
            value = float(self.program(_as_seen(shown)))
        except SelfsteerError:
            raise
        except Exception as error:
            what = f"the program failed: {_in_words(error)}"
            raise WorkFailed(what, where=where, do="make it return 0 for a pair that it can't judge") from error
        if not math.isfinite(value):
            do = "return a positive number (first is better), a negative one (second) or 0 (a tie)"
            raise WorkFailed(f"the program returned {value}, which compares nothing", where=where, do=do)
        return Answer((value > 0) - (value < 0), log_odds=value)


def find_program(spec: str) -> Program:
    """Return the program that ``spec`` names; a module or a file that it names is run.

    Args:
        spec: A name of :data:`PROGRAMS`, "package.module:function" (installed, or in the working directory), or
            "path/to/file.py:function".

    Raises:
        ConfigError: There is no such program, or its module can't be imported.
    """
    if spec in PROGRAMS:
        return PROGRAMS[spec]
    source, separator, function = spec.rpartition(":")
    if not (separator and source and function):
        do = f"{did_you_mean(spec, PROGRAMS)}; or give your own: {_FORMS}"
        raise ConfigError(f"unknown judge program {spec!r}", do=do)
    module = _run_file(Path(source).expanduser(), spec) if source.endswith(".py") else _import(source, spec)
    return _function(module, function, spec)


def _as_seen(shown: PresentedPair) -> Pair:
    """Return the pair as the program may see it; its prompt is a copy, so that no change reaches the data."""
    pair = replace(shown.pair, id="", label=None, subset="", prompt=copy.deepcopy(shown.pair.prompt))
    if not shown.swapped:
        return pair
    return replace(
        pair,
        first=pair.second,
        second=pair.first,
        first_finish=pair.second_finish,
        second_finish=pair.first_finish,
    )


def _is_json(text: str) -> bool:
    """Whether a text is one JSON value. Python's own NaN and Infinity are none; numbers may have any length."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _name_of(program: Program) -> str:
    """Return the name of a built-in program, or the function's or the class's own."""
    own = next((name for name, known in PROGRAMS.items() if known is program), None)
    inner = program.func if isinstance(program, functools.partial) else program
    return own or str(getattr(inner, "__name__", type(inner).__name__))


def _source(program: Any) -> list[str]:
    """Return what a program's answers depend on: its name, the source around it, and the values it was made with.

    The whole module counts where it can be read: the functions and constants that the program uses stand there.
    """
    if isinstance(program, functools.partial):
        return [*_source(program.func), repr(program.args), repr(sorted(program.keywords.items()))]
    if inspect.ismethod(program):
        return [*_source(program.__func__), repr(program.__self__)]
    if not inspect.isfunction(program):
        kind = type(program)
        return [kind.__qualname__, _text_around(kind), repr(sorted(getattr(program, "__dict__", {}).items()))]
    held = [cell.cell_contents for cell in program.__closure__ or ()]
    return [program.__qualname__, _text_around(program), repr([held, program.__defaults__, program.__kwdefaults__])]


def _text_around(owner: Any) -> str:
    """Return the source of a function's or a class's module with that of the modules beside it which it imports.

    Where the module's can't be read it is the owner's own, else the name of the module.
    """
    module = inspect.getmodule(owner)
    for thing in (module, owner):
        try:
            text = inspect.getsource(thing)  # type: ignore[arg-type]
        except (OSError, TypeError):  # typed into an interpreter, or written in C
            continue
        return "\n".join([text, *(path.read_text(encoding="utf-8", errors="replace") for path in _beside(module))])
    return str(owner.__module__)


def _beside(module: types.ModuleType | None) -> list[Path]:
    """Return the files that a module imports from its own folder or package, and those that these import."""
    package = getattr(module, "__package__", "") or ""
    own, file = package.partition(".")[0], Path(getattr(module, "__file__", None) or "")
    # The release says what selfsteer's own programs do. Beside a module of site-packages lies whatever is installed.
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


def _import(name: str, spec: str) -> types.ModuleType:
    with _import_errors(spec), _importable(Path.cwd()):
        return importlib.import_module(name)


def _run_file(path: Path, spec: str) -> types.ModuleType:
    """Run a file as a module of its own, without compiled leftovers beside it."""
    if not path.is_file():
        do = f"check the path; or give {did_you_mean(spec, PROGRAMS)}"
        raise ConfigError(f"no such file: {path.absolute()}", where=f"program {spec!r}", do=do)
    module = types.ModuleType(f"selfsteer_program_{path.stem}_{fingerprint(str(path.resolve()))}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses and inspect look a function's module up there
    with _import_errors(spec), _importable(path.resolve().parent):
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of ``folder`` be imported, as Python does for the script that it runs."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the module may have taken it out itself
            sys.path.remove(str(folder))


@contextmanager
def _import_errors(spec: str) -> Iterator[None]:
    """Turn whatever the user's module raises into a :class:`ConfigError`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        do = f"correct it, or give another: {_FORMS}"
        raise ConfigError(f"can't import the program: {_in_words(error)}", where=f"program {spec!r}", do=do) from error


def _function(module: types.ModuleType, name: str, spec: str) -> Program:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    what = f"no function {name!r} in {spec.rpartition(':')[0]}" if found is None else f"{name!r} is no function"
    raise ConfigError(what, where=f"program {spec!r}", do=did_you_mean(name, own))


def _in_words(error: BaseException) -> str:
    """Return an error's type and text, and the line of the user's code that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{at}"


def _is_machinery(file: str) -> bool:
    return file == __file__ or file == importlib.__file__ or file.startswith("<frozen")
