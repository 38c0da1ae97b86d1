"""Puts the page together. Templates hold the markup; everything from the run is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from selfsteer.files import write_atomic
from selfsteer.judges.tables import invalid_warning
from selfsteer.quality.direction import words
from selfsteer.report import tables
from selfsteer.report.benchmarks import benchmarks_section
from selfsteer.report.comparison import compare
from selfsteer.report.contrasts import Contrasts, read_contrasts
from selfsteer.report.fallbacks import fallbacks_told
from selfsteer.report.figures.answers import length_figure, logps_figure
from selfsteer.report.figures.panel import Figure
from selfsteer.report.figures.quality import quality_figure
from selfsteer.report.figures.training import loss_figure, rewards_figure
from selfsteer.report.formatting import NOT_RECORDED, count, duration, label, maybe, moment, number
from selfsteer.report.guards import guards_section, handed_out
from selfsteer.report.inspector import content_policy, inspector_section, styles
from selfsteer.report.read_run import Json, Run, dig, dig_dict, dig_number, dig_rows, load_run, train_steps
from selfsteer.report.signal import signal_section
from selfsteer.runs.store import output_folder
from selfsteer.templates import environment_of

_TEMPLATES = Path(__file__).parent / "templates"
_SYMBOLS = {"yes": "✓", "no": "✗", "unclear": "?"}
_SAMPLES_OPEN = 3


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` of a run directory and return its path.

    Reads ``summary.json`` and, where they exist, ``metrics.jsonl``, ``recipe.yaml``, ``signal.json``,
    ``benchmarks.json`` and the filtered rows. The page is self-contained: its only script is that of the inspector of
    rows, and it loads nothing from the network. The same input gives the same bytes.

    Raises:
        InputError: There is no summary, or one of another schema version.
        StorageError: The summary is damaged, or the page can't be written.
    """
    target = run_dir / "report.html"
    page = environment().get_template("report.html.jinja").render(_context(load_run(run_dir), read_contrasts(run_dir)))
    with output_folder(target, wait=60) as part:
        write_atomic(target, page, inside=part)
    return target


@cache
def environment() -> Environment:
    """Return the templates of the pages; all values are escaped."""
    return environment_of(  # shared with the page of a sweep
        _TEMPLATES,
        escape=True,
        keep_trailing_newline=True,
        finalize=lambda value: NOT_RECORDED if value is None else value,
    )


def _context(run: Run, contrasts: Contrasts | None) -> Json:
    summary = run.summary
    inspector = inspector_section(contrasts)
    style = styles("report.css", "inspector.css")
    data_only = summary.get("mode") == "data-only"
    rounds, policies = dig_rows(summary, "rounds"), dig_rows(summary, "policies")
    names = summary.get("refiltered")
    policy = handed_out(summary) if len(policies) > 1 else None
    after = label(policy.get("label")) if policy else "after"
    missing = list(_missing_answers(rounds, policies))
    return {
        "style": style,
        "policy": content_policy(style, inspector["script"] if inspector and not inspector["problem"] else None),
        "inspector": inspector,
        "data_only": data_only,
        "name": label(summary.get("name"), 120),
        "lead": _lead(summary),
        "facts": {
            "Model": label(summary.get("model"), 120),
            "Principle set": label(summary.get("principle_set"), 120),
            "Mode": label(summary.get("mode")),
            "Seed": label(summary.get("seed")),
            "Made": moment(summary.get("created")),
            "Time": maybe(tables.total_seconds(dig_rows(summary, "stages")), duration),
            "selfsteer": label(summary.get("version")),
        },
        "command": _text(summary.get("command")),
        "version": label(summary.get("version")),
        "seed": label(summary.get("seed")),
        "verdict": [_verdict(row) for row in dig_rows(summary, "verdict")],
        "comparison": compare(policies) if policies else None,
        "lengths": length_figure(policies),
        "logps": logps_figure(policies),
        "logps_table": tables.logps_table(policies),
        "rounds": tables.data_table(rounds) if data_only else tables.round_table(rounds, policies),
        "training": tables.training_table(rounds),
        "training_figures": _training_figures(run),
        "quality": quality_figure(rounds),
        "kept": tables.kept_tables(rounds),
        "fell_back": [sentence for sentence, of_all in missing if not of_all],
        "failed": [sentence for sentence, of_all in missing if of_all],
        "few_kept": [
            f"Round {label(row.get('round'))}: {few}." for row in rounds if (few := dig(row, "quality", "few_kept"))
        ],
        "harmful": list(_harmful(rounds)),
        "refiltered": ", ".join(map(label, names)) if isinstance(names, list) else "",
        "thresholds": tables.threshold_table(rounds),
        "data_columns": [
            [tables.query_table(rounds), tables.aspect_table(rounds), *tables.outcome_tables(rounds)],
            [tables.stage_table(dig_rows(summary, "stages")), tables.dropped_table(rounds)],
        ],
        "samples": [_sample(row) for row in dig_rows(summary, "samples")],
        "samples_open": _SAMPLES_OPEN,
        "side_labels": {"before": "Before", "after": after[:1].upper() + after[1:]},
        "guards": guards_section(summary),
        "recipe": run.recipe,
        "sources": _sources(run, contrasts),
        "signal": signal_section(run.signal) if run.signal is not None else None,
        "benchmarks": benchmarks_section(run.benchmarks) if run.benchmarks is not None else None,
    }


def _sources(run: Run, contrasts: Contrasts | None) -> str:
    files = ["summary.json", "metrics.jsonl", "recipe.yaml"]
    files += ["signal.json"] * (run.signal is not None) + ["benchmarks.json"] * (run.benchmarks is not None)
    files += ["the filtered rows"] * bool(contrasts and contrasts.rows)
    return f"{', '.join(files[:-1])} and {files[-1]}"


def _lead(summary: Json) -> str:
    rounds = dig_rows(summary, "rounds")
    last: Json = rounds[-1] if rounds else {}
    used, kept = dig_number(last, "queries", "used"), dig_number(last, "quality", "kept")
    pairs = f"{count(kept, 'pair')} passed quality control"
    if summary.get("annotated"):
        return f"The model was trained on annotated preferences ({label(summary['annotated'], 120)}); {pairs}."
    writer = "a generator trained from the model" if summary.get("mode") == "generator" else "the model"
    writer = label(summary["writer"], 120) if summary.get("writer") else writer
    start = f"From {count(used, 'query', 'queries')} and no labels, {writer} wrote contrasting answers"
    if summary.get("mode") == "data-only":
        return f"{start}; {pairs}. This run made the data only: nothing was trained."
    if len(rounds) == 1:
        return f"{start}; {pairs}, and the model was trained on those in one round."
    return f"{start} in {count(len(rounds), 'round')}, trained on what passed quality control; in the last, {pairs}."


def _harmful(rounds: list[Json]) -> Iterator[str]:
    """Yield a sentence for each round with a harmful y-, and one for each with a y- that may be harmful."""
    for row in rounds:
        counts = _counts(row, "quality", "harmful")
        unknown, head = counts.pop("unknown", 0), f"Round {label(row.get('round'))}: "
        if flags := [f"{number(n)} by {name}" for name, n in counts.items() if n]:
            what = "as a rejected response it teaches what not to say, and it is never a target."
            yield f"{head}y⁻ is flagged as harmful in {', '.join(flags)}; {what}"
        if unknown:
            what = "no aspect and no classifier decided, so it is a target only where harmful ones are allowed."
            yield f"{head}it is unknown whether y⁻ was asked to do harm in {number(unknown)}; {what}"


def _missing_answers(rounds: list[Json], policies: list[Json]) -> Iterator[tuple[str, bool]]:
    """Yield a sentence on requests to models that gave no usable answer, and whether that was so for every row."""
    for row in rounds:
        for sentence, of_all in fallbacks_told(_counts(row, "choices"), _counts(row, "writings")):
            yield f"Round {label(row.get('round'))}: {sentence}.", of_all
    for policy in policies:
        judged, invalid = dig_dict(policy, "judged"), dig_number(policy, "judged", "outcomes", "invalid")
        if (n := dig_number(judged, "n")) and invalid:
            found = {"n": int(n), "outcomes": {"invalid": int(invalid)}, "why_invalid": _counts(judged, "why_invalid")}
            warning = invalid_warning(label(judged.get("judge"), 120), found)
            yield f"{label(policy.get('label'))}: {warning}.", invalid == n


def _counts(row: Json, *path: str) -> dict[str, int]:
    found = dig_dict(row, *path)
    return {label(name, 120): int(dig_number(found, name) or 0) for name in found}


def _verdict(row: Json) -> Json:
    answer = label(row.get("answer"), 10) if row.get("answer") else "unclear"
    kind = answer if answer in _SYMBOLS else "unclear"
    detail = label(row["detail"], 600) if row.get("detail") else ""
    return {
        "question": label(row.get("question"), 200),
        "answer": answer,
        "kind": kind,
        "symbol": _SYMBOLS[kind],
        "detail": detail.replace(" -> ", " → "),
    }


def _training_figures(run: Run) -> list[Figure]:
    """Return the figures of the training log, or one empty figure saying why there are none."""
    title = "Training curves"
    if not any(dig_dict(row, "training") for row in dig_rows(run.summary, "rounds")):
        return []
    if run.metrics is None:  # a run directory may be copied without its log
        return [Figure(title, "", [], "The training curves are left out: the run directory has no metrics.jsonl.")]
    steps, generator = train_steps(run.metrics), train_steps(run.metrics, "generator")
    if not steps:
        return [Figure(title, "", [], "The training curves are left out: metrics.jsonl holds no training step.")]
    of_generator = [rewards_figure(generator, "The generator's training")] if generator else []
    return [loss_figure(steps), rewards_figure(steps), *of_generator]


def _sample(row: Json) -> Json:
    """Return one query with its answers: a side for before, and one for after where there is one."""
    sides = []
    for name in ("before", "after"):
        if side := dig_dict(row, name):
            original = dig(side, "original")
            steered = [{"sign": sign, "role": role, "text": _text(dig(side, role))}
                       for sign, role in (("y⁺", "positive"), ("y⁻", "negative"))]  # fmt: skip
            size = count(words(original), "word") if isinstance(original, str) else ""
            sides.append({"name": name, "original": _text(original), "steered": steered, "words": size})
    return {
        "query": _text(row.get("query")),
        "positive_principle": _text(row.get("positive_principle")),
        "id": label(row.get("id")),
        "sides": sides,
    }


def _text(value: Any) -> str | None:
    """Return a text as it is, "(empty)" for an empty one, None where there is none."""
    if value is None:
        return None
    return str(value) if str(value).strip() else "(empty)"
