"""What to export, and what was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.export.formats import FORMATS, Format, Layout
from selfsteer.export.redaction import public_row
from selfsteer.export.selection import Selection
from selfsteer.export.statistics import Figures
from selfsteer.export.writers import Row
from selfsteer.records import Contrast
from selfsteer.views import PAIRINGS, View


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        format: A key of :data:`selfsteer.export.formats.FORMATS`.
        view: Which prompt and pair, in a format of one view.
        full: With the columns that say where a row comes from; None where the format knows no choice.
        dropped: Take the rows that quality control dropped, too.
        finished: Leave out rows with a response that was cut off.
        harmful: Take rows whose chosen response is a y- that is, or may be, harmful, too.

    Raises:
        ConfigError: The format is unknown, or knows no such choice.
    """

    format: str
    view: View = View.BASE
    full: bool | None = None
    dropped: bool = False
    finished: bool = False
    harmful: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(
                f"unknown format {self.format!r}", where="--format", do=did_you_mean(self.format, FORMATS)
            )
        if not self.form.one_view and self.view is not View.BASE:
            what = f"the format {self.format} carries all prompts and responses, so it has no view"
            raise ConfigError(what, where=f"--view {self.view}", do="leave it out")
        if not self.form.extras and self.full is not None:
            known = ", ".join(name for name, form in FORMATS.items() if form.extras)
            what = f"the format {self.format} has one set of columns; there is a choice for {known}"
            raise ConfigError(what, where="--columns", do="leave it out")
        if self.harmful and not (self.form.one_view and PAIRINGS[self.view].chosen == "negative"):
            what = "only in the view negative_strict of a format of one view may y- be chosen"
            raise ConfigError(what, where="--allow-harmful", do="leave it out")

    @property
    def form(self) -> Format:
        """What there is to know about the format."""
        return FORMATS[self.format]

    @property
    def marks(self) -> bool:
        """Whether the rows say which y- are, or may be, harmful."""
        return not self.form.extras or self.layout.full

    @property
    def layout(self) -> Layout:
        """How the format is filled."""
        return Layout(self.view, self.full is not False)

    @property
    def schema(self) -> pa.Schema | None:
        """The Arrow schema of the rows, None where they can't be Parquet."""
        return self.form.schema(self.layout) if self.form.schema else None


@dataclasses.dataclass
class Exported:
    """What an export did, filled while the rows go through.

    Attributes:
        order: What was asked for.
        selection: What was taken and left out.
        figures: Of the rows taken.
        rows: Rows written; an unpaired format has two for each one taken.
        paths: The data files.
        notice: Of a single file, the page beside it that warns of harmful targets; None where it has none.
    """

    order: ExportOptions
    selection: Selection
    figures: Figures = dataclasses.field(default_factory=Figures)
    rows: int = 0
    paths: list[Path] = dataclasses.field(default_factory=list)
    notice: Path | None = None

    @classmethod
    def begin(cls, order: ExportOptions) -> Exported:
        """Return an export that has seen no row yet."""
        return cls(
            order,
            Selection(order.form, order.layout, dropped=order.dropped, finished=order.finished, harmful=order.harmful),
        )

    def through(self, contrasts: Iterable[Contrast]) -> Iterator[Row]:
        """Yield what the rows that are taken become."""
        for contrast in contrasts:
            if self.selection.takes(contrast):
                shown = public_row(contrast)
                self.figures.add(shown)
                for row in self.order.form.make(shown, self.order.layout):
                    self.rows += 1
                    yield row
