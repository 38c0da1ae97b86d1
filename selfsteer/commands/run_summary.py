"""What a run tells at its end: before and after as a table, the verdict in words, and where to go from here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfsteer.commands.tables import as_rich, harm_told, quality_table
from selfsteer.report.tables import round_table, turned

_STYLE = {"yes": "bold green", "no": "bold red", "unclear": "bold yellow"}


def show(summary: dict[str, Any], run_dir: Path, console: Console) -> None:
    """Print the outcome of a run."""
    if summary["policies"]:
        console.print(_table(summary["policies"]))
    if len(summary["rounds"]) > 1 or summary["mode"] == "generator":
        console.print(_rounds(summary))
    for line in summary["verdict"]:
        style = _STYLE[line["answer"]]
        console.print(f"[{style}]{line['answer']:>7}[/]  {line['question']} ", end="")
        console.print(line["detail"], markup=False, soft_wrap=True)
    for one in (summary["guards"] or {}).get("findings", []):
        if one["standing"] == "fired":
            console.print(f"[bold red]{'guard':>7}[/]  ", end="")
            console.print(_fired(one), markup=False, soft_wrap=True)
    console.print()
    for text in _pointers(summary, run_dir):
        console.print(text, markup=False, soft_wrap=True)


def show_data(summary: dict[str, Any], run_dir: Path, console: Console) -> None:
    """Print what generating gave: the rows, what each filter dropped, and where to go from here."""
    made = summary["rounds"][0]
    responses, quality = made["responses"], made["quality"]
    table = Table("rows", "", title_justify="left")
    table.add_row("queries read", f"{made['queries']['read']:,}")
    table.add_row("left out before quality control", f"{made['queries']['left_out']:,}")
    tokens = "" if responses["tokens"] is None else f", {responses['tokens']:,} tokens"
    cut = f", {responses['cut'] / max(1, responses['responses']):.0%} cut off" if responses["cut"] else ""
    table.add_row("responses", f"{responses['responses']:,}{tokens}{cut}")
    table.add_row("kept", f"{quality['kept']:,} of {quality['total']:,} ({quality['kept'] / quality['total']:.0%})")
    for title, told in harm_told(quality["harmful"]).items():
        table.add_row(title, told)
    console.print(table)
    console.print(quality_table("quality control", quality))
    for text in (
        f"data     {run_dir / 'round-01' / 'contrasts'}  (Parquet, dropped rows with their reason)",
        f"report   {run_dir / 'report.html'}",
        f"export   selfsteer export {shlex.quote(str(run_dir))} --format trl --output pairs.jsonl",
    ):
        console.print(text, markup=False, soft_wrap=True)


def _fired(one: dict[str, Any]) -> str:
    then = {"warn": "it only warns", "stop": "the run ended", "rollback": "the round was given up"}[one["action"]]
    return f"round {one['round']}, {one['guard']}: {one['detail']}: {then}"


def _table(policies: list[dict[str, Any]]) -> Table:
    table = Table("held-out queries", *[policy["label"] for policy in policies], title_justify="left")
    for name, row in _rows(policies):
        table.add_row(name, *row)
    return table


def _rounds(summary: dict[str, Any]) -> Table:
    """What each round trained on, next to what the policy it made of that has learnt."""
    # Few rounds and many figures: they stand the other way round than on the report.
    return as_rich(turned(round_table(summary["rounds"], summary["policies"])))


def _rows(policies: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    def each(path: str, form: str) -> list[str]:
        return [_value(policy, path, form) for policy in policies]

    program = next((p["direction"]["program"] for p in policies if p["direction"]), "")
    judge = next((p["judged"]["judge"] for p in policies if p.get("judged")), "")
    scale = next((p["implicit"]["scale"] for p in policies if p["implicit"]), "")
    unit = "nats, summed" if scale == "summed" else "nats/token"
    wanted = [
        ("answer length, tokens", "length.original.mean_tokens", "{:.0f}"),
        ("   under the positive principle", "length.positive.mean_tokens", "{:.0f}"),
        ("   under the negative principle", "length.negative.mean_tokens", "{:.0f}"),
        ("answers cut off at the token limit", "length.original.capped_share", "{:.0%}"),
        (f"y+ is {program} (by program)", "direction.share", "{:.0%}"),
        (f"y+ is better, strict ({judge})", "judged.strict.share", "{:.0%}"),
        (f"y+ is better, debiased ({judge})", "judged.debiased.share", "{:.0%}"),
        (f"implicit-reward accuracy, {scale}", "implicit.accuracy", "{:.0%}"),
        (f"implicit-reward margin, {unit}", "implicit.margin", "{:+.3f}"),
        ("steering margin, nats/token (prompts matter)", "steering_margin.mean", "{:.3f}"),
        ("on-policyness of y+", "onpolicyness.positive_response", "{:.3f}"),
        ("on-policyness of y-", "onpolicyness.negative_response", "{:.3f}"),
        ("mean log-prob of y+ under x, nats/token", "mean_logps.positive_response.prompt.mean", "{:.3f}"),
        ("mean log-prob of y- under x, nats/token", "mean_logps.negative_response.prompt.mean", "{:.3f}"),
        ("answers that still answer (word test)", "answered.share", "{:.0%}"),
    ]
    rows = [(name, each(path, form)) for name, path, form in wanted]
    return [(name, row) for name, row in rows if set(row) != {"-"}]


def _value(policy: dict[str, Any], path: str, form: str) -> str:
    value: Any = policy
    for part in path.split("."):
        value = value.get(part) if value is not None else None
    return "-" if value is None else form.format(value)


def _pointers(summary: dict[str, Any], run_dir: Path) -> list[str]:
    lines = [f"report   {run_dir / 'report.html'}"]
    guards = summary["guards"]
    if guards and guards["best"]:
        what = f"of round {guards['best']}: safetensors, tokenizer and model card; load it as any model"
        lines.append(f"policy   {run_dir / 'policy'}  ({what})")
    elif guards:
        lines.append("policy   none: no round is good (what was trained lies in the folders of the rounds)")
    made = (guards["good"] if guards else []) or [one["round"] for one in summary["rounds"]]
    rows = run_dir / f"round-{made[-1]:02d}" / "contrasts"
    lines.append(f"data     {rows}  (Parquet, dropped rows with their reason)")
    lines += [
        "",
        "For a model and queries of your own:",
        f"  {_own_command(summary)}",
        "model= takes any Hugging Face chat model (a local folder or a hub name), queries= a JSONL, JSON, Parquet, CSV",
        "or text file or a hub data set. The set 'brief' suits small models; 'quality' is for models of 7B and more.",
    ]
    return lines


def _own_command(summary: dict[str, Any]) -> str:
    if summary["mode"] != "data-only":
        return "selfsteer run recipes/quickstart.yaml model=org/name queries=my_queries.jsonl --run-dir runs/mine"
    return "selfsteer run recipes/scripted.yaml queries=my_queries.jsonl --run-dir runs/mine"
