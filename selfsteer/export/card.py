"""The card of an exported data set: a Hugging Face README.md on its content and its origin."""

from __future__ import annotations

import dataclasses
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
    """The licence of the queries: its id on the Hugging Face Hub ("unknown" if not stated), and who says so."""

    id: str
    said_by: str

    @classmethod
    def of(cls, given: str | None, source: str | None) -> Licence:
        """Return the licence that was given on the command line, else that of a built-in query set, else unknown."""
        if given:
            return cls(given, "as stated by whoever made this export")
        if source is not None and source.startswith("builtin:"):
            return cls("apache-2.0", "the queries come with selfsteer, and all their sources are under Apache-2.0")
        return cls("unknown", "unknown: the licence of the queries was not stated; find out before sharing them")


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """Facts on the run that an export's rows come from.

    Attributes:
        settings: Of its recipe, without secrets.
        queries: Number of queries read, aligned on and held out; None where it was not recorded.
    """

    settings: dict[str, Any]
    queries: dict[str, int] | None = None


def write_card(path: Path, exported: Exported, name: str, licence: Licence, run: RunFacts | None) -> None:
    """Write the card of a data set of that name."""
    figures = exported.figures
    front = {  # the metadata that the Hub and `datasets` read
        "pretty_name": escape_controls(name),
        "license": licence.id,
        "task_categories": ["text-generation"],
        "size_categories": [size_category(exported.rows)],
        "tags": ["preference", "rlhf", *exported.options.form.tags, "synthetic", "selfsteer"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    }
    lengths = [
        {
            "name": _NAMES[role],
            "characters": figures.characters[role].value,
            "tokens": figures.tokens[role].value,
            "cut": figures.cut[role] / figures.rows,
        }
        for role in ROLES
    ]
    text = _rendered(
        "card",
        exported,
        front=_yaml(front),
        name=name,
        licence=licence,
        queries=run.queries if run else None,
        selection=exported.selection,
        provenance=figures.provenance(),
        lengths=lengths,
        settings=escape_controls(_yaml(run.settings)) if run else None,
    )
    path.write_text(text, encoding="utf-8")


def write_notice(path: Path, exported: Exported, *, inside: Path | None = None) -> None:
    """Write, atomically, the page beside a single file that warns of harmful targets."""
    write_atomic(path, _rendered("notice", exported, name=path.name.removesuffix(f".{CARD}")), inside=inside)


def _rendered(template: str, exported: Exported, **values: Any) -> str:
    # A card is markdown: text from outside goes through `cell`, and no model output is in it.
    prompt, chosen, rejected = (_NAMES[name] for name in PAIRINGS[exported.options.view])
    return markdown(
        _TEMPLATES / f"{template}.md.jinja",
        {"number": lambda value, digits=0: "-" if value is None else f"{value:,.{digits}f}"},
        mark=_MARK,
        exported=exported,
        options=exported.options,
        form=exported.options.form,
        figures=exported.figures,
        view=f"{exported.options.view}: under {prompt}, {chosen} is chosen and {rejected} rejected",
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


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
