"""The end of a run on the terminal: before and after as a table, the verdict in words, and the next steps."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import as_rich, plain_table, quality_table
from selfsteer.report.read_run import dig
from selfsteer.report.tables import round_table, turned

_STYLE = {"yes": "bold green", "no": "bold red", "unclear": "bold yellow"}
_DEMONSTRATIONS = ("quickstart", "scripted")
"""Recipes that show what a run is."""
_CONSEQUENCE = {"warn": "it only warns", "stop": "the run ended", "rollback": "the round was rejected"}


def show(summary: dict[str, Any], run_dir: Path, console: Console = out) -> None:
    """Print the outcome of a run."""
    if summary["policies"]:
        console.print(_policy_table(summary["policies"]))
    if len(summary["rounds"]) > 1 or summary["mode"] == "generator":
        # A terminal has room for few columns, and a run has few rounds with many figures: each round is a column.
        console.print(as_rich(turned(round_table(summary["rounds"], summary["policies"]))))
    for line in summary["verdict"]:
        text = f"  {line['question']} {line['detail']}"
        say(text, console, mark=f"{line['answer']:>7}", style=_STYLE[line["answer"]])
    for one in (summary["guards"] or {}).get("findings", []):
        if one["standing"] == "fired":
            text = f"  round {one['round']}, {one['guard']}: {one['detail']}: {_CONSEQUENCE[one['action']]}"
            say(text, console, mark=f"{'guard':>7}", style="bold red")
    console.print()
    lines = [f"report   {run_dir / 'report.html'}"]
    guards = summary["guards"]
    if guards and guards["best"]:
        what = f"of round {guards['best']}: safetensors, tokenizer and model card; load it as any model"
        lines.append(f"policy   {run_dir / 'policy'}  ({what})")
    elif guards:
        lines.append("policy   none: no round is good (trained weights are in the folders of the rounds)")
    made = (guards["good"] if guards else []) or [one["round"] for one in summary["rounds"]]
    rows = run_dir / f"round-{made[-1]:02d}" / "contrasts"
    lines.append(f"data     {rows}  (Parquet, dropped rows with their reason)")
    say("\n".join([*lines, "", *_next_steps(summary, run_dir, trained=bool(guards and guards["best"]))]), console)


def _next_steps(summary: dict[str, Any], run_dir: Path, *, trained: bool) -> list[str]:
    """Return the commands that follow: a demonstration is followed by one's own model, one's own run by its use."""
    if summary["name"] in _DEMONSTRATIONS:
        own = "model=org/name " if summary["mode"] != "data-only" else ""
        return [
            "For a model and queries of your own:",
            f"  selfsteer run recipes/{summary['name']}.yaml {own}queries=my_queries.jsonl --run-dir runs/mine",
            "model= takes any Hugging Face chat model (a local folder or a hub name), queries= a JSONL, JSON, Parquet,",
            "CSV or text file or a hub data set. The set 'brief' suits small models; 'quality' is for models of 7B and",
            "more.",
        ]
    run = shlex.quote(str(run_dir))
    policy = [(f"evaluate model {run} --suite ifeval,gsm8k --limit 100", "the policy on benchmarks")]
    pairs = [
        (f"evaluate signal {run} --judge JUDGE", "how accurate the pairs are, by a judge"),
        (f"export {run} --format trl --output pairs.jsonl", "the pairs for TRL"),
    ]
    rejected = summary["guards"] and not summary["guards"]["good"]  # then there are no pairs to hand out
    steps = [*(policy if trained else ()), *(() if rejected else pairs)]
    width = max((len(command) for command, _ in steps), default=0)
    return (["Next:"] if steps else []) + [f"  selfsteer {command:{width}}  {what}" for command, what in steps]


def show_data(summary: dict[str, Any], run_dir: Path) -> None:
    """Print the outcome of generating: the rows, what each filter dropped, and the next steps."""
    made = summary["rounds"][0]
    responses, quality = made["responses"], made["quality"]
    table = plain_table("rows", "")
    table.add_row("queries read", f"{made['queries']['read']:,}")
    table.add_row("left out before quality control", f"{made['queries']['left_out']:,}")
    tokens = "" if responses["tokens"] is None else f", {responses['tokens']:,} tokens"
    cut = f", {responses['cut'] / max(1, responses['responses']):.0%} cut off" if responses["cut"] else ""
    table.add_row("responses", f"{responses['responses']:,}{tokens}{cut}")
    table.add_row("kept", f"{quality['kept']:,} of {quality['total']:,} ({quality['kept'] / quality['total']:.0%})")
    harmful = dict(quality["harmful"])
    unknown = harmful.pop("unknown", 0)
    if harmful:
        flags = ", ".join(f"{count:,} by {name}" for name, count in harmful.items())
        table.add_row("y- flagged as harmful", flags)
    if unknown:
        table.add_row("y- not known to be harmless", f"{unknown:,} (no aspect, no classifier)")
    out.print(table)
    out.print(quality_table("quality control", quality))
    say(f"data     {run_dir / 'round-01' / 'contrasts'}  (Parquet, dropped rows with their reason)")
    say(f"report   {run_dir / 'report.html'}")
    say(f"export   selfsteer export {shlex.quote(str(run_dir))} --format trl --output pairs.jsonl")


def _policy_table(policies: list[dict[str, Any]]) -> Table:
    """Return the held-out figures, a policy a column; a figure that no policy has is left out."""
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
    table = plain_table("held-out queries", *(policy["label"] for policy in policies))
    for name, path, form in wanted:
        found = [dig(policy, *path.split(".")) for policy in policies]
        row = ["-" if value is None else form.format(value) for value in found]
        if set(row) != {"-"}:
            table.add_row(Text(name), *row)  # the judge's name is the user's: no markup in it
    return table
