"""The options of an export, and its result."""

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
    """The options of an export.

    Attributes:
        view: Which prompt and pair, in a format of one view.
        full: Whether to add the columns on a row's origin; None is the format's default.
        finished: Leave out rows with a response that was cut off.
        harmful: Also export rows in which the chosen response is a y- that is, or may be, harmful.

    Raises:
        ConfigError: The format is unknown, or lacks the option.
    """

    format: str
    view: View = View.BASE
    full: bool | None = None
    dropped: bool = False
    finished: bool = False
    harmful: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            do = did_you_mean(self.format, FORMATS)
            raise ConfigError(f"unknown format {self.format!r}", where="--format", do=do)
        if not self.form.one_view and self.view is not View.BASE:
            what = f"the format {self.format} holds all prompts and responses, so it has no view"
            raise ConfigError(what, where=f"--view {self.view}", do="leave it out")
        if not self.form.extras and self.full is not None:
            known = ", ".join(name for name, form in FORMATS.items() if form.extras)
            what = f"the format {self.format} has one set of columns; {known} have two"
            raise ConfigError(what, where="--columns", do="leave it out")
        if self.harmful and not (self.form.one_view and PAIRINGS[self.view].chosen == "negative"):
            what = "y- can be the chosen response only in the view negative_strict of a format of one view"
            raise ConfigError(what, where="--allow-harmful", do="leave it out")

    @property
    def form(self) -> Format:
        """The format."""
        return FORMATS[self.format]

    @property
    def marks(self) -> bool:
        """Whether the rows mark each y- that is, or may be, harmful."""
        return not self.form.extras or self.layout.full

    @property
    def layout(self) -> Layout:
        """The choices within the format."""
        return Layout(self.view, self.full is not False)

    @property
    def schema(self) -> pa.Schema | None:
        """The Arrow schema of the rows, None if they can't be Parquet."""
        return self.form.schema(self.layout) if self.form.schema else None


@dataclasses.dataclass
class Exported:
    """The result of an export, filled while the rows go through.

    Attributes:
        selection: Counts the rows exported and left out.
        rows: Rows written; an unpaired format has two for each contrast.
        notice: Of a single file, the page beside it that warns of harmful targets; None without one.
    """

    options: ExportOptions
    selection: Selection = dataclasses.field(init=False)
    figures: Figures = dataclasses.field(default_factory=Figures)
    rows: int = 0
    paths: list[Path] = dataclasses.field(default_factory=list)
    notice: Path | None = None

    def __post_init__(self) -> None:
        self.selection = Selection(self.options)

    def through(self, contrasts: Iterable[Contrast]) -> Iterator[Row]:
        """Yield the exported rows."""
        for contrast in contrasts:
            if self.selection.takes(contrast):
                shown = public_row(contrast)
                self.figures.add(shown)
                for row in self.options.form.make(shown, self.options.layout):
                    self.rows += 1
                    yield row
