"""The Jinja templates of this folder. Values are inserted as text: markup in a query or a principle is never run."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent / "templates"
_VERSION = re.compile(r"\{# version: (\S+) #\}\n")


def render(template: str, part: str, **values: object) -> str:
    """Return what the macro ``part`` of ``templates/<template>.jinja`` makes of ``values``, without outer blanks.

    Values are hashable, or lists of what is: of millions of rows most ask for one of a few texts, which are kept.
    """
    return _render(template, part, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items()))


@functools.lru_cache(maxsize=4096)
def _render(template: str, part: str, values: tuple[tuple[str, object], ...]) -> str:
    macros = _environment().get_template(f"{template}.jinja").module
    text: str = getattr(macros, part)(**dict(values))
    return text.strip()


def template_versions(*names: str) -> dict[str, str]:
    """Return the version of each named template (default: of all): part of the provenance of what they produced."""
    versions = {}
    for path in sorted(_FOLDER.glob("*.jinja")):
        if names and path.stem not in names:
            continue
        first = _VERSION.match(path.read_text(encoding="utf-8"))
        assert first, f"{path.name} must start with its version"
        versions[path.stem] = first[1]
    return versions


def and_list(words: Sequence[str]) -> str:
    """Join words the English way: "A", "A and B", "A, B and C"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=False,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["and_list"] = and_list
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # keys in the order in which they are written
    return environment
