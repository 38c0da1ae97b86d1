"""One check of everything that needs a GPU, in one table: exactness, time, memory, share of the matrix product.

    benchmarks/gpu.sh                  # one NVIDIA GPU, at most 8 minutes, no internet, no model files
    benchmarks/gpu.sh --tiny           # the same code on a CPU with tiny sizes: whether the check itself works
    benchmarks/gpu.sh --wheels DIR     # with packages that are not installed: their wheels, unpacked for this run alone

Parts, in the order in which they run: product, head, attention, 1.5B, 7B, trainer. Each runs in a process of its own,
so one that crashes, hangs or runs out of memory costs only rows of its own. A part gets the time that is left. A case
that would not fit into it is skipped and says so: of a part the last cases go first, of all parts the last ones. A
package that is missing costs the cases that need it.

One markdown table goes to the standard output; its rows and the versions go to gpu.json in the folder $OUT, if that is
set. Exit code 0: the table is there, failed cases are rows in it (with --strict: 1 if there is one); 2: bad arguments,
no GPU, or a package is missing without which nothing runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

PARTS = {"product": 5, "head": 15, "attention": 25, "1.5B": 25, "7B": 35, "trainer": 25}
"""The parts in order, and the seconds that one of its cases may take (a guess, generous, compilation included)."""
REQUIRED = "torch transformers accelerate numpy pydantic pyarrow yaml jinja2 xxhash safetensors tokenizers rich".split()
OPTIONAL = {
    "peft": "LoRA and SSOTrainer",
    "bitsandbytes": "8-bit Adam",
    "liger_kernel": "Liger's kernel in the head",
    "triton": "FlexAttention",
}
NEEDS = {"LoRA": "peft", "8-bit Adam": "bitsandbytes", "SSOTrainer": "peft"}
_COLUMNS = {
    "seconds": ("s", "{:.4g}"), "memory_gb": ("GB", "{:.3g}"), "tokens_s": ("tokens/s", "{:.0f}"),
    "share": ("share of product", "{:.0%}"), "logp_gap": ("log-prob difference", "{:.1e}"),
    "grad_gap": ("gradient difference", "{:.1e}"),
}  # fmt: skip
_START_SECONDS = 20
"""What a process takes until its first case."""


def main() -> int:
    settings = _arguments()
    if settings.worker:
        work(settings)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack(settings.wheels, folder)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return _checked(settings)


def _checked(settings: argparse.Namespace) -> int:
    ends = time.monotonic() + settings.budget
    if lacking := [name for name in REQUIRED if importlib.util.find_spec(name) is None]:
        print(f"missing packages: {', '.join(lacking)}; install them, or give them by --wheels", file=sys.stderr)
        return 2
    if not settings.tiny and not _has_gpu():
        print("no CUDA GPU is visible to torch; --tiny runs the same code on a CPU", file=sys.stderr)
        return 2
    rows = check(settings, ends)
    print(table(rows))
    return 1 if settings.strict and any(row["status"] == "error" for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--budget", type=float, default=470, help="seconds in all (470)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="these alone")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of packages that are not installed")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a case failed")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def unpack(wheels: Path | None, folder: str) -> None:
    """Unpack the wheels of a folder for this process and those it starts; their own dependencies are not looked for.

    Raises :class:`ValueError` where there is no such folder, or a wheel is for another Python or machine.
    """
    if wheels is None:
        return
    from packaging.tags import sys_tags
    from packaging.utils import parse_wheel_filename

    fitting = set(sys_tags())
    if not wheels.is_dir():
        raise ValueError(f"--wheels {wheels}: no such folder")
    for wheel in sorted(wheels.glob("*.whl")):
        if fitting.isdisjoint(parse_wheel_filename(wheel.name)[3]):  # also raises ValueError: a malformed name
            raise ValueError(f"{wheel}: not for Python {sys.version.split()[0]} on this machine; give one that is")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, folder)


def _has_gpu() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def check(settings: argparse.Namespace, ends: float) -> list[dict[str, Any]]:
    """Run the parts, each in a process of its own (with --tiny all in one), and return their rows."""
    for name, use in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not there: no {use}", file=sys.stderr)
    chosen = [part for part in PARTS if part in settings.parts]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, parts in enumerate([chosen] if settings.tiny else [[part] for part in chosen]):
            rows += _run(parts, Path(folder, f"{number}.jsonl"), ends, settings.tiny)
            if out := os.environ.get("OUT"):  # after every part: a run that is killed leaves what it has
                _write(Path(out, "gpu.json"), rows)
    return rows


def _run(parts: list[str], file: Path, ends: float, tiny: bool) -> list[dict[str, Any]]:
    """Run parts in one process, which is killed when the time is over; its rows so far, and one for a bad end."""
    name, left = ", ".join(parts), ends - time.monotonic()
    if left < _START_SECONDS + PARTS[parts[0]] and not tiny:
        return [{"part": name, "case": "all", "status": "skip", "note": f"{max(left, 0):.0f} s left of the budget"}]
    command = [sys.executable, __file__, "--worker", str(file), "--budget", str(left), "--parts", *parts]
    problem = ""
    try:
        code = subprocess.run([*command, *(["--tiny"] if tiny else [])], timeout=left, check=False).returncode
        if code:
            problem = f"its process ended with code {code}"
    except subprocess.TimeoutExpired:
        problem = "stopped: the time was over"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines]
    return [*rows, {"part": name, "case": "after these", "status": "error", "note": problem}] if problem else rows


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    holders = importlib.metadata.packages_distributions()
    named = [holders[name][0] for name in (*REQUIRED, *OPTIONAL, "selfsteer") if name in holders]
    versions = {name: importlib.metadata.version(name) for name in named}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"python": sys.version.split()[0], "versions": versions, "rows": rows}, indent=1)
    file.write_text(text, encoding="utf-8")


def work(settings: argparse.Namespace) -> None:
    """In the process of its own: run the parts' cases and append a line for each as soon as it is done."""
    ends = time.monotonic() + settings.budget
    import torch
    from gpu_exact import attention_cases, head_cases
    from gpu_scale import FULL, TINY, free
    from gpu_steps import product_cases, step_cases, trainer_cases

    cases: dict[str, Any] = {
        "product": product_cases, "head": head_cases, "attention": attention_cases,
        "1.5B": partial(step_cases, size="1.5B"), "7B": partial(step_cases, size="7B"), "trainer": trainer_cases,
    }  # fmt: skip
    scale = TINY if settings.tiny else FULL
    device = "CPU, tiny sizes" if settings.tiny else torch.cuda.get_device_name()
    with settings.worker.open("a", encoding="utf-8") as lines:
        for part in settings.parts:
            for name, case in cases[part](scale):
                row = {"part": part, "case": name, "device": device, "status": "ok"}
                row |= _attempt(name, case, ends, 0 if settings.tiny else PARTS[part])
                free()
                print(f"{part}: {name}: {row['status']} {row.get('note', '')}", file=sys.stderr)
                print(json.dumps(row), file=lines, flush=True)


def _attempt(name: str, case: Any, ends: float, seconds: float) -> dict[str, Any]:
    """The case's figures, or why there are none."""
    lacking = [package for word, package in NEEDS.items() if word in name and not importlib.util.find_spec(package)]
    if lacking:
        return {"status": "skip", "note": f"{lacking[0]} is not there"}
    if ends - time.monotonic() < seconds:
        return {"status": "skip", "note": f"{max(ends - time.monotonic(), 0):.0f} s left of the budget"}
    try:
        return dict(case())
    except Exception as error:  # noqa: BLE001 - whatever a driver, a compiler or a package raises is a row
        reason = " ".join(str(error).split())[:200]
        return {"status": "error", "note": f"{type(error).__name__}: {reason}"}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a markdown table."""
    lines = [f"| part | case | {' | '.join(title for title, _ in _COLUMNS.values())} | note |"]
    lines.append("|" + "---|" * (len(_COLUMNS) + 3))
    for row in rows:
        cells = [form.format(row[key]) if key in row else "" for key, (_, form) in _COLUMNS.items()]
        note = row.get("note", "") if row["status"] == "ok" else f"{row['status']}: {row['note']}"
        lines.append(f"| {' | '.join([row['part'], row['case'], *cells, note.replace('|', '/')])} |")
    devices = sorted({row["device"] for row in rows if "device" in row})
    return "\n".join([f"{', '.join(devices)}, Python {sys.version.split()[0]}", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
