"""The Jinja templates of this folder: prompts of `augment` and of `principles invent`."""

from __future__ import annotations

from pathlib import Path

from selfsteer.templates import Templates

_TEMPLATES = Templates(Path(__file__).parent / "templates")
render = _TEMPLATES.render
message = _TEMPLATES.message
template_versions = _TEMPLATES.versions
template_contents = _TEMPLATES.contents
