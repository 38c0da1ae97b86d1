"""The card of an exported data set: a Hugging Face README.md that says what is in it and how it came about."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfsteer.files import write_atomic
from selfsteer.records import ROLES
from selfsteer.sanitize import escape_controls
from selfsteer.templates import markdown
from selfsteer.version import __version__
from selfsteer.views import PAIRINGS, View

if TYPE_CHECKING:
    from selfsteer.export.options import Exported

CARD = "README.md"
_TEMPLATES = Path(__file__).parent
_MARK = "<!-- written by selfsteer export -->"
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_NAMES = {
    "prompt": "x",
    "positive_prompt": "x+",
    "negative_prompt": "x-",
    "positive": "y+",
    "negative": "y-",
    "original": "yo",
}


@dataclasses.dataclass(frozen=True)
class Licence:
    """The licence of the queries.

    Attributes:
        id: Of the Hugging Face Hub's list, e.g. "apache-2.0"; "unknown" where nobody said.
        said_by: Where it comes from, one sentence.
    """

    id: str
    said_by: str

    @classmethod
    def of(cls, given: str | None, source: str | None) -> Licence:
        """Return the licence that was given on the command line, else that of a built-in query set, else unknown."""
        if given:
            return cls(given, "as given by whoever made this export")
        if source is not None and source.startswith("builtin:"):
            return cls("apache-2.0", "the queries come with selfsteer, and all their sources are under Apache-2.0")
        return cls("unknown", "unknown: nobody said under which licence the queries are; find out before sharing them")


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card is made from; see :func:`selfsteer.export.dataset.export_folder`."""

    exported: Exported
    name: str
    licence: Licence
    settings: dict[str, Any] | None
    queries: dict[str, int] | None


def write_card(path: Path, card: Card) -> None:
    """Write the card."""
    exported = card.exported
    text = _rendered(
        "card",
        exported,
        front=_yaml(_front(card)),
        card=card,
        selection=exported.selection,
        provenance=exported.figures.provenance(),
        lengths=[_length(exported, role) for role in ROLES],
        settings=escape_controls(_yaml(card.settings)) if card.settings is not None else None,
    )
    path.write_text(text, encoding="utf-8")


def write_notice(path: Path, exported: Exported) -> None:
    """Write, atomically, the page beside a single file that warns of what is chosen in it."""
    write_atomic(path, _rendered("notice", exported, name=path.name.removesuffix(f".{CARD}")))


def _rendered(template: str, exported: Exported, **values: Any) -> str:
    # A card is markdown: what comes from outside goes through `cell`; no model output gets here.
    return markdown(
        _TEMPLATES / f"{template}.md.jinja",
        {"cell": _cell, "number": _number},
        mark=_MARK,
        exported=exported,
        order=exported.order,
        form=exported.order.form,
        figures=exported.figures,
        view=_view(exported.order.view),
        version=__version__,
        View=View,
        **values,
    )


def is_own_card(path: Path) -> bool:
    """Return whether a file is a card that an export wrote."""
    return path.is_file() and _MARK in path.read_text(encoding="utf-8", errors="replace")


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows: n<1K, 1K<n<10K, ..., n>1T."""
    place = next((place for place in range(len(_SIZES)) if rows < 10 ** (place + 3)), len(_SIZES))
    if place == 0:
        return "n<1K"
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}" if place < len(_SIZES) else "n>1T"


def _front(card: Card) -> dict[str, Any]:
    """Return the metadata that the Hub and `datasets` read."""
    data = [{"split": "train", "path": "data/train-*"}]
    return {
        "pretty_name": escape_controls(card.name),
        "license": card.licence.id,
        "task_categories": ["text-generation"],
        "size_categories": [size_category(card.exported.rows)],
        "tags": ["preference", "rlhf", *card.exported.order.form.tags, "synthetic", "selfsteer"],
        "configs": [{"config_name": "default", "data_files": data}],
    }


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _view(view: View) -> str:
    """Return e.g. "base: under x, y+ is chosen and y- rejected"."""
    pairing = PAIRINGS[view]
    prompt, chosen, rejected = (_NAMES[name] for name in pairing)
    return f"{view}: under {prompt}, {chosen} is chosen and {rejected} rejected"


def _length(exported: Exported, role: str) -> dict[str, Any]:
    figures = exported.figures
    return {
        "name": _NAMES[role],
        "characters": figures.characters[role].value,
        "tokens": figures.tokens[role].value,
        "cut": figures.cut[role] / figures.rows,
    }


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _cell(text: object) -> str:
    """Return text that stays within a table's cell and does nothing there."""
    return re.sub(r"([|`<\[\]*_\\])", r"\\\1", " ".join(escape_controls(str(text)).split()))
