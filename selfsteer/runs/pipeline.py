"""The pipeline, written once: every stage with its version, its title and its place in a round.

A line's stage lives in ``selfsteer.stages.NAME``, whose ``run`` does it for one pass of a round
(:mod:`selfsteer.loop.rounds` walks these lines in their order). A new stage is that file and its line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "generator", "heldout"]
"""The queries of a pass: those to align on, the part that a generator (v2) is trained on, or the held-out ones."""

GENERATOR = "generator-"
"""Prefix in the ledger of the stages of a generator's pass."""


@dataclass(frozen=True)
class Stage:
    """One line of the pipeline.

    Attributes:
        name: Its name in the ledger and of its module.
        version: Raise it when the code would write something else from the same inputs: old results are then redone.
        title: What the terminal calls it; the store adds split and round.
        makes: What it makes, as a reason to redo a later stage names it ("the responses changed").
        seconds: Rough seconds a row takes with the embedded model on two cores; only ratios matter, for the time left.
        splits: The passes of a round that it is part of.
        folder: Its folder in that of the round (default: its name).
        numbered: Whether its title says the round.
        rows: Whether it makes scored rows: later stages of the pass take the newest.
    """

    name: str
    version: int
    title: str
    makes: str = ""
    seconds: float = 0.01
    splits: tuple[Split, ...] = ()
    folder: str | None = None
    numbered: bool = True
    rows: bool = False

    def place(self, split: Split, round: int) -> str:
        """Return the folder it writes to, relative to the run directory."""
        own = self.name if self.folder is None else self.folder
        return "/".join(filter(None, [f"round-{round:02d}", "" if split == "train" else split, own]))

    def titled(self, split: Split, round: int, title: str = "") -> str:
        """Return its title with split and round; ``title`` replaces the words of the table."""
        words = title or self.title
        if not self.numbered:
            return words
        if split == "heldout":
            return f"{words}, held-out, {f'after round {round}' if round else 'before'}"
        return f"{words}{' for the generator' if split == 'generator' else ''}, round {round}"


PIPELINE = (
    Stage("queries", 4, "read queries", "the queries", splits=("train",), numbered=False),
    Stage("preferences", 3, "read preferences", "the preferences", splits=("train",), numbered=False),
    Stage("principles", 5, "choose aspects", "the aspects", 0.3, ("train", "heldout")),
    Stage("generator", 2, "train the generator", seconds=2.1, splits=("train",)),
    Stage("responses", 5, "sample responses", "the responses", 3.9, ("train", "generator", "heldout")),
    Stage("scores", 6, "clean and score", "the scores", 1.5, ("train", "generator", "heldout"), rows=True),
    Stage("implicit", 3, "implicit rewards", seconds=0.4, splits=("heldout",)),
    Stage("judgements", 2, "ask the judge", seconds=1.0, splits=("train", "generator", "heldout")),
    Stage("rewards", 1, "ask the reward model", "the reward margins", 0.5, ("train", "generator"), rows=True),
    Stage("contrasts", 5, "quality control", "the filtered rows", splits=("train", "generator")),
    Stage("reference", 2, "score under the reference", seconds=0.9, splits=("train",)),
    Stage("policy", 3, "train", seconds=2.1, splits=("train",), folder=""),
    # The moving average is taken when the next round begins, after this round's held-out rows.
    Stage("average", 1, "average the weights", folder=""),
    # What follows is not part of a run: `principles check` and `invent`, the guards' verdicts, `selfsteer reward`.
    Stage("sample", 2, "draw queries", numbered=False),
    Stage("proposals", 2, "ask for aspects", numbered=False),
    Stage("probe", 2, "write principles", numbered=False),
    Stage("guards", 1, "", numbered=False),
    Stage("reward-data", 2, "", numbered=False),
    Stage("reward", 2, "", numbered=False),
    Stage("reward-scores", 2, "", numbered=False),
)  # fmt: skip

_STAGES = {stage.name: stage for stage in PIPELINE}
_RUN = [stage.name for stage in PIPELINE[: [stage.name for stage in PIPELINE].index("average") + 1]]


def stage(name: str) -> Stage:
    """Return a stage by its name in the ledger; the part behind a colon tells several of one kind apart."""
    return _STAGES[name.partition(":")[0].removeprefix(GENERATOR)]


def lines(split: Split) -> list[Stage]:
    """Return the stages of a pass in their order."""
    return [stage for stage in PIPELINE if split in stage.splits]


def order(name: str, *, heldout: bool) -> tuple[bool, int, int] | None:
    """Return where a ledger's stage comes within its round; None for what is not part of a run.

    A generator's pass comes before the generator, held-out rows after training, the average last.
    """
    own = name.removeprefix(GENERATOR)
    if own not in _RUN or (heldout and "heldout" not in _STAGES[own].splits):
        return None
    if name == "average":
        return True, len(_RUN), 0
    if own != name:
        return heldout, _RUN.index("generator"), _RUN.index(own) - len(_RUN)
    return heldout, _RUN.index(own), 0
