"""The inspector of a page: the contrasts as JSON, the filters' choices, and the policy that lets its script run."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from markupsafe import Markup

from selfsteer.report.contrasts import KEPT, Contrasts
from selfsteer.report.formatting import count, number
from selfsteer.report.read_run import Json

_TEMPLATES = Path(__file__).parent / "templates"
# JSON's own escapes: in the page no "<" ends the data or starts a comment, and the browser reads the same text.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def inspector_section(contrasts: Contrasts | None) -> Json | None:
    """Return the values of the inspector's template; None where the run has no rows."""
    if contrasts is None:
        return None
    rows = contrasts.rows
    outcomes = {row["outcome"] for row in rows if not row["kept"]}
    return {
        "problem": contrasts.problem,
        "stated": _stated(contrasts),
        "aspects": sorted({aspect for row in rows for aspect in row["aspects"]}),
        "outcomes": sorted(outcomes),
        "rounds": sorted({row["round"] for row in rows}),
        "data": Markup(json.dumps(rows, ensure_ascii=False, allow_nan=False).translate(_ESCAPES)),
        "script": Markup(_file("inspector.js")),
    }


def _stated(contrasts: Contrasts) -> str:
    shown, total = len(contrasts.rows), contrasts.total
    if shown == total:
        return f"All {count(total, 'row')} of the run, kept and dropped."
    return (
        f"A stratified sample: {number(shown)} of {count(total, 'row')}, in proportion to how many rows of each round "
        f"were {KEPT} or dropped by each filter ({count(contrasts.strata, 'group')}, at least one row of each where "
        "there is room)."
    )


def styles(*names: str) -> Markup:
    """Return style sheets of the templates as one text."""
    return Markup("\n".join(map(_file, names)))


def content_policy(style: str, script: str | None = None) -> str:
    """Return a page's content security policy: this style sheet, this script and nothing else.

    Style attributes are allowed: pictures have them, and no text of a run becomes one.
    """
    scripts = f"script-src {_hash(script)}; " if script else ""
    return (
        f"default-src 'none'; style-src-elem {_hash(style)}; style-src-attr 'unsafe-inline'; {scripts}img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
