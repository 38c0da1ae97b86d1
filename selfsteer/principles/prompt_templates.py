"""The Jinja templates of this folder."""

from __future__ import annotations

from pathlib import Path

from selfsteer.records import Message
from selfsteer.templates import Templates

_TEMPLATES = Templates(Path(__file__).parent / "templates")
render = _TEMPLATES.render
template_versions = _TEMPLATES.versions
template_contents = _TEMPLATES.contents
exported = _TEMPLATES.exported


def message(template: str, role: str, part: str = "", **values: object) -> Message:
    """Return a chat message whose text is a part of a template, by default the part that has the role's name."""
    return {"role": role, "content": render(template, part or role, **values)}
