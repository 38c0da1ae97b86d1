"""The errors, and the exit codes of the command line.

SelfsteerError
├── InputError            the input or the configuration is wrong          exit 2
│   ├── ConfigError       a recipe key, its value, or an override
│   │   ├── MissingParts  several things that are needed are not there
│   │   └── SeveralFaults several settings of a recipe are wrong
│   ├── DataError         a file of queries or of preference rows
│   ├── PrincipleError    a principle set
│   └── ModelError        a model folder, its tokenizer or its chat template
│       └── PromptRefused one conversation, which the chat template refuses
└── WorkFailed            the input was fine, the work failed              exit 1
    ├── FetchError        a download did not arrive or did not verify
    ├── StorageError      disk full, read-only folder, damaged file
    ├── NothingSurvived   quality control left no row to train on
    ├── BudgetReached     the cap on tokens or on money leaves no room for a request
    ├── TrainingDiverged  a loss, a gradient or a weight is not finite
    └── GuardStopped      a guard ended the run, or no round's policy is good

SelfsteerWarning          one actionable warning; the work continues
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

LONGEST = {"what": 900, "where": 500, "do": 500}
"""Characters of each part of a message: a name or a value in it may have a million."""


class SelfsteerError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: What went wrong, one sentence.
        where: File and line, recipe key, row id: where the reader should look.
        do: What the reader can do about it.
    """

    exit_code = 1
    longest: ClassVar[Mapping[str, int]] = LONGEST

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = (
            shortened(text, self.longest[name]) for name, text in (("what", what), ("where", where), ("do", do))
        )
        rest = [f"  where: {self.where}"] * bool(where) + [f"  do:    {self.do}"] * bool(do)
        super().__init__("\n".join([self.what, *rest]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of, not its joined message: workers hand their errors on."""
        return _made_again, (type(self), self.what, self.where, self.do), self.__dict__


def _made_again(kind: type[SelfsteerError], what: str, where: str, do: str) -> SelfsteerError:
    return kind(what, where=where, do=do)


class InputError(SelfsteerError):
    """The input or the configuration is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe key, its value or an override is wrong."""


class MissingParts(ConfigError):
    """What is asked for needs several things that are not there; the message lists all of them."""

    longest: ClassVar[Mapping[str, int]] = LONGEST | {"what": 12_000}


class SeveralFaults(ConfigError):
    """Several settings of a recipe are wrong; the message lists each with its line."""

    longest: ClassVar[Mapping[str, int]] = LONGEST | {"what": 12_000}


class DataError(InputError):
    """A data file can't be used as it is."""


class PrincipleError(InputError):
    """A principle set can't be used as it is."""


class ModelError(InputError):
    """A model, its tokenizer or its chat template can't be used as it is."""


class PromptRefused(ModelError):
    """The chat template of a model refuses one conversation; it may take others."""


class WorkFailed(SelfsteerError):
    """The input was fine, the work failed."""


class FetchError(WorkFailed):
    """A download did not arrive or did not verify."""


class StorageError(WorkFailed):
    """The disk is full, the folder is read-only or a file is damaged."""


class NothingSurvived(WorkFailed):
    """Quality control left no row to train on."""


class BudgetReached(WorkFailed):
    """The cap on tokens or on money leaves no room for a further request."""


class TrainingDiverged(WorkFailed):
    """A loss, a gradient or a weight is not finite."""


class GuardStopped(WorkFailed):
    """A guard ended the run, or no round's policy is good; the results so far are on disk and reported."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: the work ends as at Ctrl-C, with the exit code 143."""


class SelfsteerWarning(UserWarning):
    """Something suspicious that does not stop the work."""


def shortened(text: str, longest: int) -> str:
    """Return a text of at most ``longest`` characters, with its beginning and its end."""
    left_out = f" ... ({len(text):,} characters) ... "
    room = longest - len(left_out) - 80
    return text if len(text) <= longest else f"{text[:room]}{left_out}{text[-80:]}"


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """Return "Did you mean 'x'? Available: ..." for an unknown ``name``."""
    names = sorted(available)
    name = name[:200]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Available: {', '.join(names)}"
