"""Which rows go into an export. Those that don't are counted by reason, and the first of each is named."""

from __future__ import annotations

from collections import Counter

from selfsteer.errors import DataError
from selfsteer.export.formats import Format, Layout
from selfsteer.records import HARM_UNKNOWN, Contrast
from selfsteer.views import harmful_target

DROPPED = "dropped by quality control"
HELD_OUT = "held out"
EMPTY = "an empty response"
CUT = "a response that was cut off"
HARMFUL = "a chosen y- that is flagged as harmful"
UNKNOWN = "a chosen y- of which nobody knows whether it was asked to do harm"


class Selection:
    """Takes or leaves rows, and keeps count.

    Args:
        form: What they are to become.
        layout: How it is filled.
        dropped: Take the rows that quality control dropped, too.
        finished: Leave out rows with a response that was cut off.
        harmful: Take rows whose chosen response is a y- that is, or may be, harmful, too.

    Attributes:
        read, taken: Rows seen, and those that go into the export.
        drops: Of all rows seen, those that quality control dropped, by filter.
        cut: Rows taken with a response that was cut off.
        left_out: Rows left out, by reason.
        first: By reason, the id of the first row left out.
    """

    def __init__(
        self, form: Format, layout: Layout, *, dropped: bool = False, finished: bool = False, harmful: bool = False
    ) -> None:
        self._form, self._layout = form, layout
        self._dropped, self._finished, self._harmful = dropped, finished, harmful
        self._roles = form.roles(layout)
        self.read = self.taken = self.cut = 0
        self.drops: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def takes(self, row: Contrast) -> bool:
        """Return whether a row goes into the export, and count it."""
        self.read += 1
        if not row.kept:
            self.drops[row.drop_reason.partition(":")[0] or "unknown"] += 1
        reason = self._reason(row)
        if reason:
            self.left_out[reason] += 1
            self.first.setdefault(reason, row.id)
        else:
            self.taken += 1
            self.cut += self._is_cut(row)
        return not reason

    def check(self, where: str) -> None:
        """Raise :class:`DataError` where no row was taken."""
        if not self.taken:
            found = self.describe() if self.read else "the source holds none"
            raise DataError(f"there is no row to export: {found}", where=where, do=self._advice())

    def describe(self) -> str:
        """Return what was left out, "" where nothing was, e.g. "dropped by quality control 3 (leak 2, empty 1)"."""
        details = {DROPPED: ", ".join(f"{name} {count}" for name, count in self.drops.most_common())}
        return "; ".join(
            f"{reason} {count} ({details.get(reason) or f'the first is {self.first[reason]!r}'})"
            for reason, count in self.left_out.items()
        )

    def _reason(self, row: Contrast) -> str:
        """Return why a row is left out, "" where it is taken. What can never be exported comes before what may be."""
        if row.split == "heldout":
            return HELD_OUT
        if not (row.kept or self._dropped):
            return DROPPED
        # A format of one view needs both of its responses; the others may carry a row without yo.
        roles = self._roles if self._form.one_view else row.roles
        if any(not getattr(row, f"{role}_response").strip() for role in roles):
            return EMPTY
        if self._form.one_view and harmful_target(row, self._layout.view) and not self._harmful:
            return UNKNOWN if row.negative_harmful == HARM_UNKNOWN else HARMFUL
        return self._form.problem(row, self._layout) or (CUT if self._finished and self._is_cut(row) else "")

    def _is_cut(self, row: Contrast) -> bool:
        return any(getattr(row, f"{role}_finish") == "length" for role in self._roles)

    def _advice(self) -> str:
        if not self.left_out:
            return "look at the run's report: no row came as far as quality control"
        worst = self.left_out.most_common(1)[0][0]
        known = {
            DROPPED: "--all takes rows that were dropped, too",
            HELD_OUT: "held-out rows are for measuring; export training rows",
            EMPTY: "look at the generation settings: the model answers with nothing",
            HARMFUL: "--allow-harmful takes them, where you know what for",
            UNKNOWN: "let a classifier look (`selfsteer filter` with quality.harm), or say --allow-harmful",
            CUT: "leave --finished out, or let responses grow longer",
        }
        return known.get(worst, "choose another --format: this one can't carry these rows")
