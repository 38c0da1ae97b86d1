"""Writing a principle set as YAML that :func:`selfsteer.principles.load_set` reads back, with comments for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from selfsteer.principles.principle_set import PrincipleSet
from selfsteer.sanitize import escape_controls

_WIDTH = 116
_YAML_WIDTH = 96
"""PyYAML breaks a line at the first blank after this column."""


def dump_set(principle_set: PrincipleSet, *, head: Sequence[str] = (), notes: Mapping[str, Sequence[str]]) -> str:
    """Return a set as YAML without the keys that have their defaults; ``head``: comments at the top, a paragraph each.

    Args:
        notes: Comments above an aspect, by its name.
    """
    values = principle_set.model_dump(exclude_defaults=True, exclude={"aspects"})
    examples = values.pop("few_shot", [])
    parts = [_comments(head) + _yaml(values), "aspects:"]
    for aspect in principle_set.aspects:
        item = _yaml([aspect.model_dump(exclude_defaults=True)])
        parts.append(textwrap.indent(_comments(notes.get(aspect.name, ())) + item, "  "))
    return "\n".join([*parts, *([_yaml({"few_shot": examples})] if examples else [])])


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=_YAML_WIDTH)


def _comments(paragraphs: Sequence[str]) -> str:
    # Characters that YAML takes for the end of a line, or refuses, are made harmless.
    lines = [line for text in paragraphs for line in textwrap.wrap(escape_controls(" ".join(text.split())), _WIDTH - 4)]
    return "".join(f"# {line}\n" for line in lines)
