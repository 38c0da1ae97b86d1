"""Prompts as Jinja templates. Values are inserted as text: markup in a query or a principle is never run."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from selfsteer.files import fingerprint
from selfsteer.sanitize import escape_controls

_VERSION = re.compile(r"\{# version: (\S+) #\}\n")


def environment_of(folder: Path, *, escape: bool, **options: Any) -> Environment:
    """Return the templates of a folder; a value that is not given is an error, and lines of tags leave no blank lines.

    Values are escaped (``escape``) as a page needs and plain text must not be.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=escape,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


class Templates:
    """The templates of one folder. Each starts with its version and holds macros, one for each part of a prompt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = functools.lru_cache(maxsize=4096)(self._render)

    def render(self, template: str, part: str, **values: object) -> str:
        """Return the text of the macro ``part`` of ``<template>.jinja`` with ``values``, without outer blanks.

        Values are hashable, or lists of hashable ones: of millions of rows most need one of a few texts, which are
        cached.
        """
        return self._kept(template, part, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items()))

    def message(self, template: str, role: str, part: str = "", **values: object) -> dict[str, str]:
        """Return a chat message whose text is a part of a template, by default the part that has the role's name."""
        return {"role": role, "content": self.render(template, part or role, **values)}

    def exported(self, template: str, name: str) -> Any:
        """Return a value that ``<template>.jinja`` sets, such as its few-shot examples."""
        return getattr(self._environment.get_template(f"{template}.jinja").module, name)

    def versions(self, *names: str) -> dict[str, str]:
        """Return the version of each named template (default: of all), for the provenance of its results."""
        versions = {}
        for path in sorted(self.folder.glob("*.jinja")):
            if names and path.stem not in names:
                continue
            first = _VERSION.match(path.read_text(encoding="utf-8"))
            assert first, f"{path.name} must start with its version"
            versions[path.stem] = first[1]
        return versions

    def contents(self, *names: str) -> dict[str, str]:
        """Return "version fingerprint" of each named template (default: of all), on which its prompts depend."""
        found = self.versions(*names)
        texts = {name: (self.folder / f"{name}.jinja").read_text(encoding="utf-8") for name in found}
        return {name: f"{version} {fingerprint(texts[name])[:8]}" for name, version in found.items()}

    def _render(self, template: str, part: str, values: tuple[tuple[str, object], ...]) -> str:
        macros = self._environment.get_template(f"{template}.jinja").module
        return str(getattr(macros, part)(**dict(values))).strip()

    @functools.cached_property
    def _environment(self) -> Environment:
        environment = environment_of(self.folder, escape=False)
        environment.filters["and_list"] = and_list
        environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # keys in the order they are written in
        return environment


def markdown(template: Path, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: object) -> str:
    """Return a Markdown document from a template of plain text: nothing is escaped by itself.

    The template may include others of its folder, and use the ``filters`` by name. For text from outside there are
    ``yaml`` (a value in the front matter), ``code`` (in a code span) and ``cell`` (in a table).
    """
    environment = environment_of(template.parent, escape=False)
    environment.filters |= {"yaml": _yaml_scalar, "code": _code, "cell": _cell, **(filters or {})}
    return environment.get_template(template.name).render(values)


def _yaml_scalar(text: str) -> str:
    return yaml.safe_dump(text, allow_unicode=True, width=math.inf).removesuffix("...\n").strip()


def _code(text: object) -> str:
    return " ".join(escape_controls(str(text)).replace("`", "'").split())


def _cell(text: object) -> str:
    return re.sub(r"([|`<\[\]*_\\])", r"\\\1", " ".join(escape_controls(str(text)).split()))


def and_list(words: Sequence[str]) -> str:
    """Join words the English way: "A", "A and B", "A, B and C"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
