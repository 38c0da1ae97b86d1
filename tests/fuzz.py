"""Damaged inputs through the commands that read them: ``python -m tests.fuzz [--inputs N] [--seed S] [--kind KIND]``.

Each input is a sound one with one thing changed: bytes (flipped, cut, doubled, inserted) or a value of the JSON, YAML
or Parquet in it (another type, huge, deep, half a surrogate pair, control characters). Every command runs in a process
forked from this one, with limits on time and memory. An input is at fault where the command ends with a traceback, an
unexpected error, another exit code than 0, 1 or 2, no message, or not at all. The same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SECONDS, BYTES = 30, 12 << 30
"""Limits of one command: wall time, address space."""

EVIL: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**19, 10**400, 1e308, float("nan"), float("inf"), "", " ", "x" * 100_000, "\ud800",
    "\x1b]0;x\x07", "[/b]", "[link=http://x]y[/link]", "{{7*7}}", "../../etc/passwd", "/", "~nouser/x", "a\x00b",
    "\u202e", "\u0301" * 500, [], {}, [[]], [None], {"": None}, {"a": {"a": {"a": {}}}}, [1] * 1000, "2024-13-45",
    "0x", "1e999", "NaN", "null", "- a", "&a [*a]", "!!int x",
]  # fmt: skip


class Kind:
    """A sort of input.

    Args:
        damage: Damages one in a folder, given a source of chance, and returns what ``{damaged}`` stands for.
        commands: Those that read it, one of which is drawn.
    """

    def __init__(self, damage: Callable[[Path, random.Random], str], *commands: str) -> None:
        self.damage, self.commands = damage, commands


@dataclass(frozen=True)
class Outcome:
    """How a command ended: "ok", "message", "traceback", "unexpected", "code", "silent" or "time"."""

    what: str
    code: int
    text: str

    @property
    def fault(self) -> bool:
        """Whether a user would call it a fault."""
        return self.what not in ("ok", "message")


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(data) + 1), chance.choice([1, 2, 16, 300])
    junk = chance.choice(
        [
            b"\x00",
            b"\xff\xfe",
            b"{",
            b"[" * 20_000,
            b"\n",
            b'"',
            b":",
            b"\xed\xa0\x80",
            b"*",
            b"\t",
            bytes(chance.randbytes(size)),
        ]
    )
    return chance.choice([
        data[:at],
        data[:at] + data[at + size :],
        data[:at] + junk + data[at:],
        data[:at] + bytes(byte ^ (1 << chance.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :],
        data + data[:at],
        b"",
    ])  # fmt: skip


def damaged_value(value: Any, chance: random.Random) -> Any:
    """Return a value with one place in it replaced, removed or repeated under another name."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        rest = {key: one for key, one in value.items() if key != name}
        draw = chance.random()
        if draw < 0.1:
            return rest
        if draw < 0.2:
            return {**value, str(chance.choice(EVIL))[:50]: value[name]}
        return {**value, name: damaged_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], damaged_value(value[at], chance), *value[at + 1 :]]
    return chance.choice(EVIL)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode(errors="surrogatepass")


def damaged_text(
    data: bytes, chance: random.Random, read: Callable[[bytes], Any], write: Callable[[Any], bytes]
) -> bytes:
    return damaged_bytes(data, chance) if chance.random() < 0.4 else write(damaged_value(read(data), chance))


def damaged_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = damaged_text(lines[at], chance, json.loads, as_json)
    return b"\n".join(lines) + b"\n" * (chance.random() < 0.8)


def damaged_parquet(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        return damaged_bytes(data, chance)
    table = pq.read_table(pa.BufferReader(data))
    name = chance.choice(table.column_names)
    at = table.column_names.index(name)
    draw = chance.random()
    if draw < 0.2:
        table = table.drop_columns([name])
    elif draw < 0.4:
        table = table.rename_columns([f"{one}2" if one == name else one for one in table.column_names])
    else:
        value = chance.choice(
            [None, 5, 1.5, "x", "\x1b[2J", [1], {"a": 1}, True, b"\xff", float("nan"), "x" * 10_000, "{", "[" * 5000]
        )
        table = table.set_column(at, name, pa.array([value] * len(table)))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".yaml": lambda data, chance: damaged_text(data, chance, yaml.safe_load, as_yaml),
    ".json": lambda data, chance: damaged_text(data, chance, json.loads, as_json),
    ".jsonl": damaged_lines,
    ".parquet": damaged_parquet,
}


def damage_file(path: Path, chance: random.Random) -> None:
    """Replace a file by a damaged one, now and then by something that is no file."""
    draw = chance.random()
    if draw < 0.01:
        path.unlink()
        path.mkdir()
    elif draw < 0.02:
        path.unlink()
        os.mkfifo(path)
    elif draw < 0.03:
        path.unlink()
        path.symlink_to(chance.choice(["/dev/zero", "nowhere", path.name, "/etc/hostname"]))
    else:
        data = path.read_bytes()
        path.write_bytes(DAMAGE.get(path.suffix, damaged_bytes)(data, chance) if data else damaged_bytes(data, chance))


def one_of(pattern: str) -> Callable[[Path, random.Random], str]:
    def damage(folder: Path, chance: random.Random) -> str:
        path = chance.choice(sorted(path for path in folder.rglob(pattern) if path.is_file()))
        damage_file(path, chance)
        return str(path)

    return damage


def override(folder: Path, chance: random.Random) -> str:
    """Return an override of any key."""
    from selfsteer.config import Recipe

    def leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, one in value.items() if isinstance(value, dict) else ():
            yield from leaves(one, (*path, name))

    path = chance.choice(list(leaves(Recipe().model_dump(), ()))[1:])
    value = chance.choice(EVIL)
    text = chance.choice([json.dumps(value), str(value)])
    # What no command line can hold: a NUL.
    return f"{'.'.join(path)}={text}".replace("\0", "").encode(errors="surrogatepass").decode(errors="replace")


KINDS: dict[str, Kind] = {
    "recipe": Kind(
        one_of("recipe.yaml"),
        "run {damaged} --dry-run --run-dir {folder}/new",
        "generate {damaged} --run-dir {folder}/new",
        "estimate {damaged}",
    ),
    "override": Kind(
        override,
        "run {folder}/recipe.yaml {damaged} --dry-run --run-dir {folder}/new",
        "generate {folder}/recipe.yaml {damaged} --run-dir {folder}/new",
    ),
    "sweep": Kind(one_of("sweep.yaml"), "sweep {damaged} --dry-run --run-dir {folder}/new"),
    "principles": Kind(
        one_of("set.yaml"),
        "principles show {damaged}",
        "generate {folder}/recipe.yaml principles.set={damaged} --run-dir {folder}/new",
    ),
    "queries": Kind(one_of("queries.*"), "generate {folder}/recipe.yaml queries={damaged} --run-dir {folder}/new"),
    "pairs": Kind(one_of("pairs.*"), "judge {damaged} --judge program:shorter"),
    "rows": Kind(
        one_of("rows.parquet"),
        "judge {damaged} --judge program:shorter",
        "export {damaged} --output {folder}/out.jsonl --format trl",
        "filter {damaged} quality.filters=[identical] --output {folder}/out.parquet",
    ),
    "run directory": Kind(
        one_of("run/**/*"),
        "report {folder}/run",
        "export {folder}/run --output {folder}/out.jsonl --format trl",
        "judge {folder}/run --judge program:shorter",
        "evaluate signal {folder}/run",
        "filter {folder}/run quality.filters=[identical] --dry-run",
        "run {folder}/recipe.yaml --run-dir {folder}/run",
        "run {folder}/recipe.yaml --run-dir {folder}/run --dry-run",
    ),
}


def sound(folder: Path) -> None:
    """Write sound inputs of all kinds."""
    from selfsteer.config import dump_recipe
    from selfsteer.loop import run
    from selfsteer.principles.yaml_reader import load_set
    from selfsteer.principles.yaml_writer import dump_set
    from tests.run_helpers import QUERIES, scripted_recipe, without_reports

    rows = [{"id": f"q{i}", "prompt": query} for i, query in enumerate(QUERIES)]
    (folder / "queries.txt").write_text("\n".join(QUERIES), encoding="utf-8")
    (folder / "queries.csv").write_text(
        "id,prompt\n" + "\n".join(f'q{i},"{q}"' for i, q in enumerate(QUERIES)), encoding="utf-8"
    )
    (folder / "queries.json").write_bytes(as_json(rows))
    (folder / "queries.jsonl").write_bytes(b"\n".join(map(as_json, rows)))
    pq.write_table(pa.Table.from_pylist(rows), folder / "queries.parquet")
    pairs = [{"prompt": query, "chosen": f"Yes, {query}", "rejected": "No.", "label": 1} for query in QUERIES]
    (folder / "pairs.jsonl").write_bytes(b"\n".join(map(as_json, pairs)))
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    recipe = scripted_recipe(folder / "queries.txt")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    (folder / "sweep.yaml").write_bytes(
        as_yaml(
            {
                "name": "s",
                "recipe": str(folder / "recipe.yaml"),
                "seeds": [0, 1],
                "grid": {"generation.temperature": [0.5, 1.0]},
            }
        )
    )
    (folder / "set.yaml").write_text(dump_set(load_set("brief"), head=[], notes={}), encoding="utf-8")
    with without_reports():
        run(recipe, folder / "run")
    shutil.copy(next((folder / "run").rglob("contrasts/*.parquet")), folder / "rows.parquet")


def command_of(text: str, folder: Path, damaged: str) -> list[str]:
    return [part.replace("{folder}", str(folder)).replace("{damaged}", damaged) for part in text.split()]


def outcome_of(arguments: list[str], seconds: float = SECONDS) -> Outcome:
    """Run a command in a forked process, and return how it ended."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as cache:
        child = os.fork()
        if child == 0:
            _run(arguments, output.fileno(), cache)
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("time", -9, "")
            time.sleep(0.005)
        output.seek(0)
        text = output.read(100_000).decode(errors="replace")
    code = os.waitstatus_to_exitcode(ended[1])
    what = "ok" if code == 0 else "message"
    if "Traceback (most recent call last)" in text:
        what = "traceback"
    elif "error: unexpected" in text:
        what = "unexpected"
    elif code not in (0, 1, 2):
        what = "code"
    elif code and "rror" not in text:
        what = "silent"
    elif "\x1b" in text:
        what = "escape"
    return Outcome(what, code, text)


def _run(arguments: list[str], output: int, cache: str) -> None:
    """In the child: run the command line and end the process with its code."""
    code = 70
    try:
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", encoding="utf-8") for stream in (1, 2))  # pytest has its own
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.setsid()
        warnings.simplefilter("default")  # pytest makes errors of some
        # A recipe that is cut off may ask for the default model: nothing is fetched, and none is at hand.
        os.environ.update(SELFSTEER_CACHE=cache, HF_HUB_OFFLINE="1", PIP_NO_INDEX="1")
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        from selfsteer import cli

        sys.argv = ["selfsteer", *arguments]
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:  # noqa: BLE001 - it is what is looked for
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def unsound(base: Path, folder: Path) -> list[str]:
    """Return the commands that fail on sound inputs: they would find nothing."""
    found = []
    for name, kind in KINDS.items():
        damaged = {"override": "seed=1", "queries": "{folder}/queries.csv", "pairs": "{folder}/pairs.parquet"}
        damaged |= {"recipe": "{folder}/recipe.yaml", "sweep": "{folder}/sweep.yaml", "principles": "{folder}/set.yaml"}
        for text in kind.commands:
            place = fresh(base, folder)
            given = damaged.get(name, "{folder}/rows.parquet").replace("{folder}", str(place))
            outcome = outcome_of(command_of(text, place, given))
            found += [f"{text}: {outcome.text[-300:]}"] if outcome.code else []
    return found


def fresh(base: Path, folder: Path) -> Path:
    """Return a copy of the sound inputs."""
    place = folder / "input"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place, symlinks=True)
    for name in ("recipe.yaml", "sweep.yaml"):
        text = (place / name).read_text(encoding="utf-8")
        (place / name).write_text(text.replace(str(base), str(place)), encoding="utf-8")
    return place


def fuzz(kind: str, count: int, seed: int, base: Path, folder: Path) -> Iterator[tuple[int, list[str], Outcome]]:
    """Yield the outcomes of ``count`` damaged inputs of a kind, each with its number and its command."""
    for number in range(count):
        chance = random.Random(f"{seed} {kind} {number}")
        place = fresh(base, folder)
        damaged = KINDS[kind].damage(place, chance)
        arguments = command_of(chance.choice(KINDS[kind].commands), place, damaged)
        yield number, arguments, outcome_of(arguments)


def main() -> None:
    """Print a table of outcomes, and each fault with its number and command; exit 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=3200, help="inputs, spread over the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    asked = parser.parse_args()
    kinds = [asked.kind] if asked.kind else list(KINDS)
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        base = Path(folder) / "sound"
        base.mkdir()
        sound(base)
        if wrong := unsound(base, Path(folder)):
            raise SystemExit("these fail on sound inputs:\n" + "\n".join(wrong))
        print(f"{'kind':<16}{'inputs':>8}{'ok':>8}{'message':>9}{'faults':>8}")
        for kind in kinds:
            found: Counter[str] = Counter()
            for number, arguments, outcome in fuzz(kind, asked.inputs // len(kinds), asked.seed, base, Path(folder)):
                found[outcome.what] += 1
                if outcome.fault:
                    last = next((line for line in reversed(outcome.text.splitlines()) if line.strip()), "")
                    print(f"  {kind} {number}: {outcome.what}, exit {outcome.code}: {' '.join(arguments)[:200]!r}")
                    print(f"      {last[:200]!r}", flush=True)
            faults = sum(count for what, count in found.items() if what not in ("ok", "message"))
            print(f"{kind:<16}{sum(found.values()):>8}{found['ok']:>8}{found['message']:>9}{faults:>8}", flush=True)
            totals.update(inputs=sum(found.values()), faults=faults)
    print(f"{totals['faults']} faults in {totals['inputs']} inputs")
    raise SystemExit(bool(totals["faults"]))


if __name__ == "__main__":
    main()
