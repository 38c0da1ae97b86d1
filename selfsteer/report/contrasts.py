"""The contrasts of a run for the inspector: which rows it shows, and what of a row."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from selfsteer.config import load_recipe
from selfsteer.errors import SelfsteerError
from selfsteer.quality.base import SYMBOLS
from selfsteer.quality.leak import SHARE_NGRAM, ngrams, words
from selfsteer.records import PROMPTS, Contrast, has_score, read_columns, read_places, score
from selfsteer.report.read_run import Json, clean
from selfsteer.runs.active import active_rounds, check_files
from selfsteer.runs.ledger import Ledger

MOST_ROWS = 500
MOST_BYTES = 3_000_000
"""Bytes of rows in a page: with long responses fewer than :data:`MOST_ROWS` fit."""
KEPT = "kept"
_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")


@dataclasses.dataclass(frozen=True)
class Contrasts:
    """The rows that a page shows, each as JSON, and the number of rows that the run has.

    ``problem`` is a sentence where they could not be read.
    """

    rows: list[Json]
    total: int
    strata: int = 0
    problem: str = ""


class _Place(NamedTuple):
    """A row in the files of a run: the file, the row's position in it, and its stratum."""

    path: Path
    position: int
    stratum: tuple[int, str]


def read_contrasts(run_dir: Path) -> Contrasts | None:
    """Return a run's contrasts, all or a stratified sample; None for a run directory without filtered rows.

    The strata are the rows of a round that were kept and those that one filter dropped. The sample has rows of each in
    proportion to its size, at least one, spread evenly over the stored order; the same rows give the same sample.
    """
    recipe, ledger = run_dir / "recipe.yaml", run_dir / "ledger.jsonl"
    if not (recipe.is_file() and ledger.is_file()):
        return None
    try:
        opened = Ledger(run_dir)
        entries = active_rounds(load_recipe(recipe), opened).rows
        for entry in entries.values():
            check_files(opened, entry)
        places = [place for n, entry in entries.items() for place in _places(run_dir, n, entry.files)]
        sizes = Counter(place.stratum for place in places)
        drawn = list(_within(MOST_BYTES, map(_shown, _read(_sampled(places)[:MOST_ROWS]))))
    except SelfsteerError as error:  # the rest of the page is worth having
        return Contrasts([], 0, problem=f"The rows can't be shown: {error.what} ({error.where}).")
    if not places:
        return None
    drawn.sort(key=lambda row: (row["round"], row["id"]))
    return Contrasts(drawn, len(places), len(sizes))


def _places(run_dir: Path, round_: int, files: Sequence[str]) -> Iterator[_Place]:
    for name in files:
        path = run_dir / name
        for position, (kept, reason) in enumerate(read_columns([path], ["kept", "drop_reason"])):
            yield _Place(path, position, (round_, KEPT if kept else filter_of(reason)))


def filter_of(drop_reason: str) -> str:
    """Return the name of the filter in a drop reason."""
    return drop_reason.partition(":")[0] or "no reason recorded"


def _sampled(places: Sequence[_Place]) -> list[_Place]:
    """Return the rows in an order of which each beginning is a stratified sample.

    Row k of the n of a stratum, in an even spread, has the rank (k + 1/2) / n: beginnings have rows in proportion. The
    first row of each stratum precedes all of these.
    """
    strata: dict[tuple[int, str], list[_Place]] = {}
    for place in places:
        strata.setdefault(place.stratum, []).append(place)
    ranked = []
    for number, stratum in enumerate(sorted(strata)):
        spread = sorted(range(len(strata[stratum])), key=_reversed_bits)
        for k, index in enumerate(spread):
            ranked.append(((k + 0.5) / len(spread) if k else 0.0, number, strata[stratum][index]))
    return [place for _, _, place in sorted(ranked)]


def _reversed_bits(number: int) -> int:
    """Return a number's 32 bits in reverse order: sorted by it, each beginning of a range is spread evenly over it."""
    return int(f"{number:032b}"[::-1], 2)


def _read(places: Sequence[_Place]) -> Iterator[Contrast]:
    """Yield the rows in the order of their places; each file is read once."""
    wanted: dict[Path, list[int]] = {}
    for place in places:
        wanted.setdefault(place.path, []).append(place.position)
    found = {}
    for path, positions in wanted.items():
        for position, row in zip(positions, read_places(path, Contrast, positions), strict=True):
            found[path, position] = row
    return (found[place.path, place.position] for place in places)


def _within(most: int, rows: Iterator[Json]) -> Iterator[Json]:
    """Yield rows until they take up ``most`` bytes; the first one always."""
    for number, row in enumerate(rows):
        most -= len(json.dumps(row))
        if most < 0 and number:
            return
        yield row


def _shown(row: Contrast) -> Json:
    reason = clean(row.drop_reason)
    return {
        "id": clean(row.id),
        "round": row.round,
        "aspects": clean(row.aspects),
        "outcome": KEPT if row.kept else filter_of(reason),
        "kept": row.kept,
        "reason": reason,
        "query": [{"role": clean(turn["role"]), "text": clean(turn["content"])} for turn in row.prompt],
        "principles": [clean(row.positive_principle), clean(row.negative_principle)],
        "responses": [_response(row, role, reason) for role in row.roles],
        "margin": clean(row.steering_margin),
        "harm": clean(row.negative_harmful),
        "source": clean(dict(row.provenance)),
    }


def _response(row: Contrast, role: str, reason: str) -> Json:
    text = clean(getattr(row, f"{role}_response"))
    ids = getattr(row, f"{role}_token_ids")
    named = SYMBOLS[f"{role}_response"] in reason
    principle = clean(getattr(row, f"{role}_principle", ""))
    return {
        "role": role,
        "parts": marked(text, reason, principle) if named else [text],
        "named": named,
        "thinking": clean(getattr(row, f"{role}_thinking")),
        "finish": getattr(row, f"{role}_finish"),
        "tokens": len(words(text)) if ids is None else len(ids),
        "unit": "words" if ids is None else "tokens",
        "scores": [clean(score(row, role, name)) if has_score(row, role, name) else None for name in PROMPTS],
    }


def marked(text: str, reason: str, principle: str) -> list[str]:
    """Return ``text`` in parts, every second one of which the drop reason is about.

    That is what the reason quotes, or for a share of repeated n-grams those that the principle has too.
    """
    wanted = [_unquoted(quoted) for quoted in _QUOTED.findall(reason)]
    if f"{SHARE_NGRAM}-grams" in reason and filter_of(reason) == "leak":
        shared = set(ngrams(principle, SHARE_NGRAM)).intersection(ngrams(text, SHARE_NGRAM))
        wanted = [" ".join(gram) for gram in sorted(shared)]
    spans = sorted(span for each in wanted for span in _spans(text, each))
    parts: list[str] = []
    end = 0
    for start, stop in spans:
        if parts and start <= end:  # overlaps the one before
            parts[-1] += text[end : max(end, stop)]
        else:
            parts += [text[end:start], text[start:stop]]
        end = max(end, stop)
    return [*parts, text[end:]]


def _unquoted(quoted: str) -> str:
    try:
        return str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError):  # no string of Python's: another program's reason
        return quoted[1:-1]


def _spans(text: str, quoted: str) -> list[tuple[int, int]]:
    """Return where ``text`` has the words of ``quoted``, whatever is between them, or else the quoted characters."""
    found = words(quoted)
    pattern = r"[\W_]+".join(re.escape(word).replace("'", "['’]") for word in found) if found else re.escape(quoted)
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if pattern else []
