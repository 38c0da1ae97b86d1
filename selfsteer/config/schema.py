"""The JSON schema of recipe files, for editors that complete and check YAML."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from selfsteer.config.keys import sections_of
from selfsteer.config.recipe import Recipe
from selfsteer.config.yaml_lines import SHORTHAND

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe: keys with their descriptions, and both forms of the sections that may be
    given as one string."""
    schema: dict[str, Any] = {"$schema": _DRAFT, **Recipe.model_json_schema(), "title": "selfsteer recipe"}
    for section in dict.fromkeys(_sections(Recipe)):
        properties = (schema if section is Recipe else schema["$defs"][section.__name__])["properties"]
        for name, text in descriptions(section).items():
            properties[name]["description"] = text
    for dotted in SHORTHAND:
        *path, last = dotted.split(".")
        properties = schema["properties"]
        for part in path:
            properties = schema["$defs"][properties[part]["$ref"].rpartition("/")[2]]["properties"]
        found = properties[last]
        properties[last] = {"anyOf": [{"$ref": found.pop("$ref")}, {"type": "string"}], **found}
    return schema


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """Return what the strings below a section's fields say of them, those of its bases too.

    Pydantic's own use_attribute_docstrings reads all sources at import, which every command would wait for.
    """
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(definition, ast.ClassDef)
            for field, below in pairwise(definition.body):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = _text(below)
                    found |= {field.target.id: text} if text else {}
    return {name: text for name, text in found.items() if name in section.model_fields}


def _text(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return " ".join(value.value.split()) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _sections(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for field in kind.model_fields.values():
        for section, _ in sections_of(field.annotation):
            yield from _sections(section)
