"""Which rows go into an export. The others are counted by reason, with the id of the first one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from selfsteer.errors import DataError
from selfsteer.records import HARM_UNKNOWN, Contrast
from selfsteer.views import harmful_target

if TYPE_CHECKING:
    from selfsteer.export.options import ExportOptions

DROPPED = "dropped by quality control"
HELD_OUT = "held out"
EMPTY = "an empty response"
CUT = "a response that was cut off"
HARMFUL = "a chosen y- that is flagged as harmful"
UNKNOWN = "a chosen y- that may have been asked to do harm"
_ADVICE = {
    "": "see the run's report: no row reached quality control",
    DROPPED: "--all also exports rows that were dropped",
    HELD_OUT: "held-out rows are for measuring; export training rows",
    EMPTY: "check the generation settings: the model's answers are empty",
    HARMFUL: "--allow-harmful exports them, if you know what for",
    UNKNOWN: "let a classifier decide (`selfsteer filter` with quality.harm), or add --allow-harmful",
    CUT: "leave --finished out, or raise the length limit of responses",
}


class Selection:
    """Selects the rows of an export, and counts them.

    Attributes:
        read, taken: Rows seen, and those exported.
        drops: Of all rows seen, those that quality control dropped, by filter.
        cut: Exported rows with a response that was cut off.
        left_out: Rows left out, by reason.
        first: By reason, the id of the first row left out.
    """

    def __init__(self, options: ExportOptions) -> None:
        self._options, self._form = options, options.form
        self._roles = options.form.roles(options.layout)
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
        """Raise :class:`DataError` if no row was exported."""
        if not self.taken:
            found = self.describe() if self.read else "the source has no rows"
            worst = self.left_out.most_common(1)[0][0] if self.left_out else ""
            do = _ADVICE.get(worst, "choose another --format: this one can't represent these rows")
            raise DataError(f"there is no row to export: {found}", where=where, do=do)

    def describe(self) -> str:
        """Return a summary of the rows left out, e.g. "dropped by quality control 3 (leak 2, empty 1)"; "" for none."""
        details = {DROPPED: ", ".join(f"{name} {count}" for name, count in self.drops.most_common())}
        return "; ".join(
            f"{reason} {count} ({details.get(reason) or f'the first is {self.first[reason]!r}'})"
            for reason, count in self.left_out.items()
        )

    def _reason(self, row: Contrast) -> str:
        """Return why a row is left out, "" if it is exported. Reasons that no option changes come first."""
        if row.split == "heldout":
            return HELD_OUT
        if not (row.kept or self._options.dropped):
            return DROPPED
        # A format of one view needs both of its responses; the others may hold a row without yo.
        roles = self._roles if self._form.one_view else row.roles
        if any(not getattr(row, f"{role}_response").strip() for role in roles):
            return EMPTY
        # An unknown flag counts as harmful: an empty one would look like innocence.
        if self._form.one_view and harmful_target(row, self._options.layout.view) and not self._options.harmful:
            return UNKNOWN if row.negative_harmful == HARM_UNKNOWN else HARMFUL
        return self._form.problem(row, self._options.layout) or (
            CUT if self._options.finished and self._is_cut(row) else ""
        )

    def _is_cut(self, row: Contrast) -> bool:
        return any(getattr(row, f"{role}_finish") == "length" for role in self._roles)
