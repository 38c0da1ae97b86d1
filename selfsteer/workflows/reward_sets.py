"""The sources of a reward recipe's preference pairs: files, folders, hub data sets and run directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import load_recipe
from selfsteer.errors import ConfigError, InputError
from selfsteer.export.selection import CUT, DROPPED, EMPTY
from selfsteer.judges.pair_datasets import pair_of
from selfsteer.queries import Dropped, check_dataset_split, source_fingerprint
from selfsteer.queries.messages import Unusable
from selfsteer.queries.tally import Tally, check_share
from selfsteer.records import Contrast, is_full, read_rows
from selfsteer.reward.data import LabelledPair
from selfsteer.reward.recipe import SetSettings
from selfsteer.runs.active import active_rounds, check_files, rerun_command
from selfsteer.runs.ledger import Ledger, StageRecord
from selfsteer.stages.preferences import better_and_worse, numbered

Pairs = Iterator[LabelledPair | Dropped]


class Source(NamedTuple):
    """A set's source, checked and not read yet.

    Attributes:
        self_made: Whether its pairs have no human label.
    """

    content: Any
    pairs: Callable[[], Pairs]
    self_made: bool
    what: str


def open_source(name: str, settings: SetSettings) -> Source:
    """Check a set's source.

    Raises:
        ConfigError: ``rounds``, ``finished`` or ``dataset_split`` does not apply to the source, or a round does not
            exist.
        InputError: The source does not exist, or is a run directory without filtered rows or without a good round.
    """
    path = Path(settings.source)
    check_dataset_split(settings.source, settings.dataset_split, f"sets.{name}.dataset_split")
    if (path / "recipe.yaml").is_file():
        return _open_run(name, path, settings)
    for key in ("rounds", "finished"):
        if getattr(settings, key):
            what = f"{key} applies to run directories only, and {settings.source} is not one"
            raise ConfigError(what, where=f"sets.{name}.{key}", do="leave it out")
    # The share of unusable rows is checked while the rows are read, so another limit reads them again.
    content = [source_fingerprint(settings.source), settings.dataset_split, settings.max_left_out]
    return Source(content, lambda: _annotated(name, settings), False, "labelled pairs")


def _annotated(name: str, settings: SetSettings) -> Pairs:
    tally = Tally()
    for own_id, where, row, origin in numbered(settings.source, settings.dataset_split):
        tally.rows += 1
        try:
            pair = pair_of(row, own_id, origin)
        except Unusable as unusable:
            tally.add(where, str(unusable), unusable.do)
            yield Dropped(own_id, where, str(unusable), unusable.do, unusable=True)
            continue
        try:
            chosen, rejected = better_and_worse(pair)
        except Unusable as unusable:
            yield Dropped(own_id, where, str(unusable))  # a tie or no label: no fault of the row
            continue
        margin = row.get("steering_margin")  # in exports of a run's rows
        known = isinstance(margin, int | float) and abs(margin) < 1e300  # no NaN, and no integer of 400 digits
        yield LabelledPair(own_id, where, pair.prompt, chosen, rejected, float(margin) if known else None)
    key = f"sets.{name}.max_left_out"
    check_share(tally.info, "pair", settings.source, most=settings.max_left_out, key=key)


def _open_run(name: str, run_dir: Path, settings: SetSettings) -> Source:
    ledger, rounds = Ledger(run_dir), settings.rounds
    there = active_rounds(load_recipe(run_dir / "recipe.yaml"), ledger)
    if not there.rows:
        raise InputError(there.lack, where=str(run_dir), do=rerun_command(run_dir, "to continue"))
    absent = sorted(set(rounds or ()) - there.rows.keys())
    if absent:
        what = f"{run_dir} has no rows of round {absent[0]}"
        raise ConfigError(what, where=f"sets.{name}.rounds", do=f"it has round {there}")
    entries = [there.rows[number] for number in sorted(rounds or there.rows)]
    for entry in entries:  # now, not hours later while the pairs are read
        check_files(ledger, entry)
    what = f"self-made pairs of round {', '.join(str(entry.round) for entry in entries)}"
    content = [[entry.round, entry.key, settings.finished] for entry in entries]
    return Source(content, lambda: _self_made(run_dir, entries, settings.finished), True, what)


def _self_made(run_dir: Path, entries: list[StageRecord], finished: bool) -> Pairs:
    """Yield the base view of a run's rows."""
    for entry in entries:
        for name in entry.files:
            for row in read_rows([run_dir / name], Contrast):
                cut = finished and "length" in (row.positive_finish, row.negative_finish)
                reason = DROPPED if not row.kept else EMPTY if not is_full(row) else CUT if cut else ""
                own_id, answers = f"round {entry.round}: {row.id}", (row.positive_response, row.negative_response)
                pair = LabelledPair(own_id, name, row.prompt, *answers, row.steering_margin)
                yield pair.without(reason) if reason else pair
