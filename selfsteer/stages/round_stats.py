"""What is told of each round: its data in flat memory, and the one place where a round's figures are put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from selfsteer.evaluation.metrics import response_length
from selfsteer.export.statistics import Mean
from selfsteer.quality import few_kept, steering_margin
from selfsteer.records import ROLES, Contrast, has_score, score
from selfsteer.runs.ledger import StageRecord
from selfsteer.runs.shards import NAMED

Figures = dict[str, Any]


class RoundStages(NamedTuple):
    """The stages that made a round's data.

    Attributes:
        before: Those that may leave queries out, in their order.
        asked: How many queries were to be answered, or pairs to be read.
        scores, contrasts: The rows before and after the filters.
        principles, responses: None where the data are annotated preferences.
        generator: The figures of the data that the round's generator was trained on, and of its training; else None.
    """

    before: Sequence[StageRecord]
    asked: int
    scores: StageRecord
    contrasts: StageRecord
    principles: StageRecord | None = None
    responses: StageRecord | None = None
    generator: Figures | None = None


def data_figures(rows: Iterable[Contrast]) -> Figures:
    """Return means over rows after cleaning and before the filters; None where no row has what it takes.

    ``length``: tokens (words where there are no tokens) by role; ``onpolicyness``: exp(mean log-prob under the plain
    prompt) of y+, of y- and of both (v2, figure 3); ``steering_margin``: nats per token.
    """
    lengths, chances = {role: Mean() for role in ROLES}, {role: Mean() for role in ROLES[:2]}
    margin = Mean()
    for row in rows:
        for role in row.roles:
            lengths[role].add(response_length(row, role))
        for role, mean in chances.items():
            mean.add(math.exp(score(row, role, "prompt")) if has_score(row, role, "prompt") else None)
        margin.add(steering_margin(row))
    both = [mean.value for mean in chances.values() if mean.value is not None]
    return {
        "length": {role: mean.value for role, mean in lengths.items()},
        "onpolicyness": {f"{role}_response": mean.value for role, mean in chances.items()}
        | {"mean": sum(both) / len(both) if both else None},
        "steering_margin": margin.value,
    }


def round_figures(number: int, stages: RoundStages) -> Figures:
    """Return what summary and report show of a round; ``training`` is filled in when the round has trained."""
    left_out = [entry.info["left_out"] for entry in stages.before]
    principles, responses = stages.principles, stages.responses
    return {
        "round": number,
        "queries": {
            "read": stages.before[0].info["read"],
            "used": stages.asked - sum(left_out[1:]),
            "left_out": sum(left_out),
            "dropped": [drop for entry in stages.before for drop in entry.info["dropped"]][:NAMED],
        },
        "aspects": principles.info["aspects"] if principles else {},
        "choices": principles.info["choices"] if principles else {},
        "writings": principles.info["writings"] if principles else {},
        "responses": {name: responses.info[name] for name in ("responses", "cut", "tokens")} if responses else None,
        "data": stages.scores.info["figures"],
        "quality": quality_figures(stages.contrasts.info),
        "generator": stages.generator,
        "training": None,
    }


def quality_figures(info: Figures) -> Figures:
    """Return what the summary says of quality control: the filters in the order in which they ran."""
    counts, aspects = info["counts"], info["aspects"]
    order = info.get("order", list(counts))
    return {
        "total": info["total"],
        "kept": counts["kept"],
        "dropped": {name: counts[name] for name in order if name != "kept"},
        "aspects": {name: {key: own[key] for key in order if key in own} for name, own in _largest_first(aspects)},
        **{name: info[name] for name in ("thresholds", "harmful")},
        "few_kept": few_kept(counts),
    }


def _largest_first(aspects: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(aspects.items(), key=lambda item: (-sum(item[1].values()), item[0]))
