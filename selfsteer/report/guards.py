"""The section "Guards": the findings of each round, the guards that fired, and the policy that the run hands out."""

from __future__ import annotations

from selfsteer.config import Guard, GuardSettings
from selfsteer.report.formatting import label
from selfsteer.report.read_run import Json, dig_dict, dig_number, dig_rows
from selfsteer.report.tables import Table

_FOLLOWED = {
    "warn": "It only warns: the run continued.",
    "stop": "The round was rejected and the run ended.",
    "rollback": "The round was rejected; the next one began from the last good policy.",
}
_CRITERIA = {
    "last": "the last good round's",
    "signal_accuracy": "the good round's with the highest signal accuracy",
    "implicit_accuracy": "the good round's with the highest implicit-reward accuracy",
    "onpolicyness": "the good round's with the highest on-policyness",
}


def guards_section(summary: Json) -> Json | None:
    """Return everything that the section prints; None for a run without guards."""
    guards = dig_dict(summary, "guards")
    if not guards:
        return None
    best, criterion = dig_number(guards, "best"), label(guards.get("criterion"))
    lead = "No round's policy is good, so the run hands out none. The folders of the rounds hold the trained ones."
    if best is not None:
        lead = f"The run hands out the policy of round {best:.0f}: {_CRITERIA.get(criterion, criterion)}."
    kinds = {name: field.annotation for name, field in GuardSettings.model_fields.items()}
    meanings = [[name, " ".join((kind.__doc__ or "").split())] for name, kind in kinds.items()
                if isinstance(kind, type) and issubclass(kind, Guard)]  # fmt: skip
    fired, rows = [], []
    for row in dig_rows(guards, "findings"):
        guard, number, detail = label(row.get("guard")), label(row.get("round")), label(row.get("detail"), 600)
        rows.append([guard, number, label(row.get("standing")), detail])
        if row.get("standing") == "fired":
            fired.append(f"Round {number}, {guard}: {detail}. {_FOLLOWED.get(str(row.get('action')), '')}")
    missing = "All guards are set to ignore (guards.action), so nothing was watched."
    return {
        "lead": lead,
        "fired": fired,
        "table": Table("What each guard found", ["Guard", "Round", "Verdict", "Figures"], rows, missing),
        "meanings": Table("What each guard looks for", ["Guard", "What it looks for"], meanings),
    }


def handed_out(summary: Json) -> Json | None:
    """Return the entry of the policy that the run hands out, or of the last one if that was not measured."""
    policies = dig_rows(summary, "policies")
    best = dig_number(summary, "guards", "best")  # None without guards, and where no round is good
    found = [policy for policy in policies if best is not None and dig_number(policy, "round") == best]
    return found[0] if found else policies[-1] if policies else None
