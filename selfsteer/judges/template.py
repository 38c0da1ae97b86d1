"""The prompt of a judge: a Jinja template, shipped or the user's own."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfsteer.errors import ConfigError
from selfsteer.files import fingerprint, open_regular
from selfsteer.judges.base import PresentedPair
from selfsteer.records import Message

Mode = Literal["logprobs", "text"]
LABELS = ("A", "B")
_SHIPPED = Path(__file__).parent / "templates" / "pairwise.jinja"


class JudgeTemplate:
    """Renders the message that shows a pair. Texts are inserted as they are: markup in a response is never run.

    Args:
        path: A template file; None uses the shipped one, in which a comment lists the available values. A file that
            can't be read, is no Jinja template or does not show both responses is a :class:`ConfigError`.
        labels: The names of the two answers, with which the judge has to reply.
    """

    def __init__(self, path: Path | None = None, labels: Sequence[str] = LABELS) -> None:
        self.path, self.labels = path or _SHIPPED, tuple(labels)
        environment = ImmutableSandboxedEnvironment(  # a template may come from elsewhere: it must not reach Python
            autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        try:
            with open_regular(self.path) as stream:
                source = stream.read().decode().replace("\r\n", "\n")
            self._template = environment.from_string(source)
            used = find_undeclared_variables(environment.parse(source))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the judge's template: {error}", where=str(self.path)) from error
        except TemplateError as error:
            raise self._wrong(error) from error
        for name in ("first", "second"):
            if name not in used:
                do = "put {{ first }} and {{ second }} where the two responses go"
                raise ConfigError(f"the judge's template never shows {name!r}", where=str(self.path), do=do)
        self.fingerprint = fingerprint([source, self.labels])

    def messages(self, shown: PresentedPair, mode: Mode) -> list[Message]:
        """Return the prompt that shows one presentation; :class:`ConfigError` if the template fails on it."""
        first, second = shown.responses
        values = {"conversation": shown.pair.prompt, "criterion": shown.pair.criterion, "labels": self.labels}
        try:
            text = self._template.render(first=first, second=second, mode=mode, **values)
        except Exception as error:  # a template of the user's may raise anything: {{ first + 1 }} is a TypeError
            raise self._wrong(error) from error
        return [{"role": "user", "content": text.strip()}]

    def _wrong(self, error: Exception) -> ConfigError:
        # A syntax error knows its line; of one while rendering, Jinja puts the template's line into the traceback.
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        line = getattr(error, "lineno", None) or (frames[-1] if frames else None)
        return ConfigError(
            f"the judge's template does not work: {error}",
            where=f"{self.path}:{line}" if line else str(self.path),
            do="fix it; a comment in the shipped selfsteer/judges/templates/pairwise.jinja lists the available values",
        )
