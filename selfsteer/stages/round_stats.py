"""Per-round statistics: the one place where a round's figures are put together."""

from __future__ import annotations

from typing import Any

from selfsteer.quality import few_kept
from selfsteer.runs.pipeline import GENERATOR
from selfsteer.runs.results import DroppedRows
from selfsteer.runs.shards import NAMED
from selfsteer.stages.context import Pass
from selfsteer.stages.contrasts import ContrastsResult
from selfsteer.stages.preferences import PreferencesResult
from selfsteer.stages.principles import PrinciplesResult
from selfsteer.stages.queries import QueriesResult, round_queries
from selfsteer.stages.responses import ResponsesResult
from selfsteer.stages.scores import ScoresResult

Figures = dict[str, Any]


def round_figures(state: Pass) -> Figures:
    """Return what summary and report show of a round's data; ``training`` is filled in when the round has trained."""
    records = state.records
    names = ("preferences", "scores") if "preferences" in records else ("queries", "principles", "responses", "scores")
    dropped = [DroppedRows.of(records[name]) for name in names]
    if "preferences" in records:
        preferences = PreferencesResult.of(records["preferences"])
        read, asked, principles, responses = preferences.read, preferences.pairs, None, None
    else:
        read = QueriesResult.of(records["queries"]).read
        asked = len(round_queries(state.context.recipe, records["queries"], "train", state.number))
        principles = PrinciplesResult.of(records["principles"])
        responses = ResponsesResult.of(records["responses"])
    return {
        "round": state.number,
        "queries": {
            "read": read,
            "used": asked - sum(one.left_out for one in dropped[1:]),
            "left_out": sum(one.left_out for one in dropped),
            "dropped": [drop for one in dropped for drop in one.dropped][:NAMED],
        },
        "aspects": principles.aspects if principles else {},
        "choices": principles.choices if principles else {},
        "writings": principles.writings if principles else {},
        "responses": {name: getattr(responses, name) for name in ("responses", "cut", "tokens")} if responses else None,
        "data": ScoresResult.of(records["scores"]).figures,
        "quality": quality_figures(ContrastsResult.of(records["contrasts"])),
        "generator": {
            "quality": quality_figures(ContrastsResult.of(records[f"{GENERATOR}contrasts"])),
            "data": ScoresResult.of(records[f"{GENERATOR}scores"]).figures,
            "training": records["generator"].info,
        }
        if "generator" in records
        else None,
        "training": None,
    }


def quality_figures(found: ContrastsResult) -> Figures:
    """Return what the summary says of quality control: the filters in the order in which they ran."""
    order = found.order or list(found.counts)
    largest_first = sorted(found.aspects.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return {
        "total": found.total,
        "kept": found.counts["kept"],
        "dropped": {name: found.counts[name] for name in order if name != "kept"},
        "aspects": {name: {key: own[key] for key in order if key in own} for name, own in largest_first},
        "thresholds": found.thresholds,
        "harmful": found.harmful,
        "few_kept": few_kept(found.counts),
    }
