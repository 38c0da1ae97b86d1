"""What the stages of a run share: its recipe, principle set, store and models; and the state of one pass of a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from selfsteer.config import HarmSettings, Recipe, dump_recipe
from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.evaluation.steerability import VerdictFn
from selfsteer.files import write_atomic
from selfsteer.jobs.launch import IN_PROCESS, Launch
from selfsteer.principles import PrincipleSet, load_set
from selfsteer.principles.yaml_writer import dump_set
from selfsteer.quality import DIRECTIONS, FilterChain, HarmClassifier, direction_of, parse_filters
from selfsteer.records import ROLES, Contrast
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.pipeline import Split, stage
from selfsteer.runs.store import Store
from selfsteer.stages.model_pool import ModelPool, Policy
from selfsteer.stages.reward_margins import RewardMargins, margins_of

PRINCIPLES = "principles.yaml"
"""The principle set in a run directory."""


@dataclasses.dataclass
class RunContext:
    """What every stage of a run may need."""

    recipe: Recipe
    principle_set: PrincipleSet
    store: Store
    models: ModelPool
    launch: Launch = IN_PROCESS
    """How trainings are started."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, store: Store, *, runs_code: bool = True) -> RunContext:
        """Return the context of a recipe in a run directory; ``principles.steering`` replaces the set's own.

        ``runs_code`` as for :class:`ModelPool`.
        """
        found = load_set(recipe.principles.set)
        steering = recipe.principles.steering
        principle_set = found.model_copy(update={"steering": steering}) if steering else found
        return cls(recipe, principle_set, store, ModelPool(recipe, store.run_dir, runs_code=runs_code))

    @classmethod
    def from_run(cls, recipe: Recipe, store: Store) -> RunContext:
        """Return the context of an existing run, with the set it stored: the set's own file may have changed since."""
        kept = store.run_dir / PRINCIPLES
        if kept.is_file():
            return cls(recipe, load_set(kept), store, ModelPool(recipe, store.run_dir))
        return cls.from_recipe(recipe, store)

    def keep_settings(self) -> None:
        """Write the recipe and the principle set into the run directory, for later readers of its rows."""
        write_atomic(self.store.run_dir / "recipe.yaml", dump_recipe(self.recipe))
        head = [f"The principle set of this run, as it was: {self.principle_set.fingerprint}."]
        write_atomic(self.store.run_dir / PRINCIPLES, dump_set(self.principle_set, head=head, notes={}))

    @property
    def direction(self) -> str | None:
        """Program that decides which way y+ must differ from y-; None where neither recipe nor principle set names one.

        The set's program does not apply to guidelines, which are written without the set.
        """
        own = None if self.recipe.principles.strategy == "guideline" else self.principle_set.direction
        return self.recipe.evaluation.direction or own

    def program(self, row: Contrast) -> str | None:
        """Return the direction program of a row: the recipe's, its only aspect's, or the set's."""
        return self.recipe.evaluation.direction or self.principle_set.direction_of(row.aspects)

    def verdict_fn(self, judged: Mapping[str, tuple[str, int]]) -> VerdictFn:
        """Return a function that decides which response of a row is better: by the row's program, else by a judge.

        Args:
            judged: By row id, the judge's name and its verdict: 1 for y+, -1 for y-, 0 for neither.
        """

        def verdict(row: Contrast) -> tuple[str, int] | None:
            program = self.program(row)
            return (program, direction_of(program, row)) if program else judged.get(row.id)

        return verdict

    @property
    def filters(self) -> list[str | dict[str, Any]]:
        """The recipe's filters; a ``direction`` filter that names no program uses the run's."""
        return with_direction(self.recipe.quality.filters, self.direction)

    def chain(self) -> FilterChain:
        """Return the recipe's filters, not fitted yet."""
        known = self.principle_set
        return FilterChain(self.filters, adjectives=known.adjectives, harmful=known.harmful)

    @cached_property
    def harm_classifier(self) -> HarmClassifier | None:
        """The classifier of ``quality.harm``; None where the recipe names none."""
        return harm_classifier(self.recipe.quality.harm, self.recipe.model.device)

    @cached_property
    def reward_margins(self) -> RewardMargins | None:
        """The reward model that the filters need; None where they need none."""
        return margins_of(self.filters, self.recipe.quality.reward, self.recipe.model.device)

    def check_models(self) -> None:
        """Raise where a harm classifier or a reward model of the filters can't be used; no weights are loaded."""
        _ = self.harm_classifier, self.reward_margins

    def check_programs(self) -> None:
        """Raise :class:`ConfigError` where recipe or principle set name an unknown direction program."""
        for program in [self.direction, *(aspect.direction for aspect in self.principle_set.aspects)]:
            if program is not None and program not in DIRECTIONS:
                raise ConfigError(
                    f"unknown direction program {program!r}",
                    where="evaluation.direction, or the principle set",
                    do=did_you_mean(program, DIRECTIONS),
                )

    def check_filters(self) -> None:
        """Refuse, before anything is paid for, filters that use log-probs which the rows won't have."""
        scored = [step.name for step in parse_filters(self.filters) if step.scored]
        if self.models.weightless:
            what = f"the backend {self.recipe.generation.backend} has no weights to score with"
        elif self.recipe.preferences.source:
            what = "annotated preferences have no principles to score under"
        else:
            return
        if scored:
            raise ConfigError(
                f"{', '.join(scored)} use log-probs, and {what}",
                where="quality.filters",
                do="take them out, for example quality.filters=[identical, leak]",
            )

    # Parts of the keys of several stages.

    def scoring(self, policy: Policy) -> dict[str, Any]:
        """What scores depend on besides the rows: weights, precision, length limit; None without weights."""
        if policy.weightless:
            return {"scorer": None, "lengths": "words"}  # no tokens: the figures count words
        precision = self.models.precision(self.recipe.train.precision)
        return {"scorer": [policy.fingerprint, precision, self.recipe.train.max_length]}

    def sampling(self, policy: Policy) -> dict[str, Any]:
        """What sampled texts depend on besides the requests."""
        return {"engine": self.models.sampling_key(policy)}


def with_direction(filters: Sequence[str | dict[str, Any]], program: str | None) -> list[str | dict[str, Any]]:
    """Return filters in which a ``direction`` that names no program uses this one."""
    if program is None:
        return list(filters)
    return [
        {"direction": {"program": program, **(spec["direction"] or {} if isinstance(spec, dict) else {})}}
        if spec == "direction" or (isinstance(spec, dict) and "direction" in spec)
        else spec
        for spec in filters
    ]


def harm_classifier(harm: HarmSettings | None, device: str) -> HarmClassifier | None:
    """Return the harm classifier that a recipe names; ``device`` may be "auto"."""
    if harm is None:
        return None
    from selfsteer.models import pick_device

    found = pick_device() if device == "auto" else device
    return HarmClassifier(harm.classifier, harm.label, harm.threshold, device=found, revision=harm.revision)


@dataclasses.dataclass
class RoundData:
    """A round's filtered rows, and whose log-probs their scores are."""

    contrasts: StageRecord
    scorer: Policy


@dataclasses.dataclass
class Pass:
    """One pass of a round over its queries, as its stages see it.

    Attributes:
        number: The round; of held-out rows 0 is the start's.
        policy: Scores the rows, and is trained on them.
        writer: Answers; another than the policy in mode offline, or a generator.
        records: What the stages have made so far, by name; one that is there already is not run.
        checks: Whether its pairs are the first that show if the principles are followed: then they are judged.
        reference: The weights that a round's policy is compared with.
        made: The data of the rounds so far, this one's last.
        start_rows: The held-out rows of the start, which the implicit rewards are about.
    """

    context: RunContext
    split: Split
    number: int
    policy: Policy
    writer: Policy
    records: dict[str, StageRecord]
    trains: bool = False
    checks: bool = False
    reference: Policy | None = None
    made: Sequence[RoundData] = ()
    start_rows: StageRecord | None = None

    @property
    def roles(self) -> Sequence[str]:
        """The responses of a row: y+, y- and yo, or y+ and y- where a generator answers (v2)."""
        two = self.context.recipe.mode == "generator" and self.split == "train"
        return ROLES[:2] if two else ROLES

    @property
    def rows(self) -> StageRecord:
        """The newest scored rows of the pass."""
        return [record for name, record in self.records.items() if stage(name).rows][-1]
