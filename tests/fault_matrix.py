"""A server that fails in every way, under `selfsteer generate`.

    python -m tests.fault_matrix [--queries 500] [--share 0.3] [--seed 0]

A share of all requests is answered by a fault, whose kinds take turns. The real command runs in a process of its own,
once with failed=stop and once with failed=drop and a single retry. Then each query is looked for: it must be in exactly
one row, with the answers that the server gave to its own requests, or named among the dropped ones; and no text of a
faulty answer may be in a row. A table says of each kind how often it was served and what became of the request: sent
again, dropped with its query (for this answer, for another one of the same query, or after the last try), or taken for
an answer.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from selfsteer.config import dump_recipe
from selfsteer.files import read_json
from selfsteer.records import ROLES, Contrast, Query, read_rows
from tests.backends.chat_server import HANG_UP, ChatServer, Reply, completion, failure, metered, scripted
from tests.run_helpers import scripted_recipe

FAULTY = "FAULTY"
"""Is in every text that must not become a response."""
TIMEOUT, TOKENS = 1.0, 40
KEY = "sk-fault-matrix-0123456789"
SOUND_AT_FIRST = 8
"""Answers before the first fault: a server that has answered nothing yet is taken for no chat server at all."""
_COMMAND = "import sys; from selfsteer.cli import main; sys.argv = ['selfsteer', *sys.argv[1:]]; main()"

Fate = Literal["repeated", "dropped", "taken"]


@dataclass(frozen=True)
class Fault:
    """A kind of fault: ``reply`` is given the sound answer's text; ``fate`` is what has to become of the request."""

    fate: Fate
    reply: Callable[[str], Reply]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _head(length: int | None, **headers: str) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items()]
    lines += [] if length is None else [f"Content-Length: {length}".encode()]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _whole(text: str) -> bytes:
    return _json(completion(f"{FAULTY} {text}").body)


def _reset(connection: socket.socket, first: bytes = b"") -> None:
    """Send something, then close the connection with a reset instead of an end."""
    connection.sendall(first)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _drip(connection: socket.socket) -> None:
    """Send a byte now and then, so that no silence is too long, for longer than a whole answer may take."""
    connection.sendall(_head(100_000))
    for _ in range(int(20 * TIMEOUT)):
        connection.sendall(b" ")
        time.sleep(TIMEOUT / 3)


def _raw(send: Callable[[socket.socket], None]) -> Callable[[str], Reply]:
    return lambda text: Reply(send)


def _sent(build: Callable[[bytes], bytes]) -> Callable[[str], Reply]:
    """Send bytes made of a whole answer, then close."""
    return lambda text: Reply(lambda connection: connection.sendall(build(_whole(text))))


def _status(status: int, **headers: str) -> Callable[[str], Reply]:
    return lambda text: failure(status, f"{FAULTY}: try later", **headers)


def _body(value: Any, **headers: str) -> Callable[[str], Reply]:
    return lambda text: Reply(value, 200, headers)


def _message(message: Any, finish: Any = "stop") -> Callable[[str], Reply]:
    return _body({"choices": [{"message": message, "finish_reason": finish}]})


def _twice(text: str) -> Reply:
    (first,) = completion(text).body["choices"]
    return Reply({"choices": [first, {"index": 1, "message": {"role": "assistant", "content": FAULTY}}]})


def _nan_logprobs(text: str) -> Reply:
    entry = {"token": "a", "logprob": float("nan"), "top_logprobs": [{"token": "a", "logprob": float("nan")}]}
    return completion(text, logprobs={"content": [entry]})


FAULTS: dict[str, Fault] = {
    "400, once": Fault("dropped", _status(400)),
    "400, too long": Fault("dropped", lambda text: failure(400, "maximum context length is 10 tokens")),
    "403, content filter": Fault("dropped", lambda text: failure(403, "blocked", "content_filter")),
    "408": Fault("repeated", _status(408)),
    "409": Fault("repeated", _status(409)),
    "425": Fault("repeated", _status(425)),
    "429": Fault("repeated", _status(429)),
    "429, Retry-After": Fault("repeated", _status(429, Retry_After="0.2")),
    "429, Retry-After is nonsense": Fault("repeated", _status(429, Retry_After="soon")),
    "500": Fault("repeated", _status(500)),
    "502, HTML": Fault("repeated", lambda text: Reply(f"<html>{FAULTY}</html>".encode(), 502)),
    "503, Retry-After": Fault("repeated", _status(503, Retry_After="0.2")),
    "504": Fault("repeated", _status(504)),
    "529": Fault("repeated", _status(529)),
    "an error with status 200": Fault("repeated", _body({"error": {"message": f"{FAULTY}: overloaded"}})),
    "redirect to itself": Fault("repeated", lambda text: Reply(b"", 307, {"Location": "/v1/chat/completions"})),
    "no answer, closed": Fault("repeated", lambda text: HANG_UP),
    "no answer, reset": Fault("repeated", _raw(_reset)),
    "reset after the head": Fault("repeated", _raw(lambda connection: _reset(connection, _head(500)))),
    "half a head": Fault("repeated", _sent(lambda data: b"HTTP/1.1 200 OK\r\nContent-Ty")),
    "a head of 300 kB": Fault("repeated", _sent(lambda data: _head(len(data), X_Long="x" * 300_000) + data)),
    "half a body": Fault("repeated", _sent(lambda data: _head(len(data)) + data[: len(data) // 2])),
    "half a body in chunks": Fault(
        "repeated", _sent(lambda data: _head(None, Transfer_Encoding="chunked") + b"%x\r\n%s" % (len(data), data[:20]))
    ),
    "length too short": Fault("repeated", _sent(lambda data: _head(len(data) - 20) + data)),
    "length too long": Fault("repeated", _sent(lambda data: _head(len(data) + 20) + data)),
    "silence": Fault("repeated", lambda text: Reply(completion(f"{FAULTY} late").body, delay=2 * TIMEOUT)),
    "slow drip": Fault("repeated", _raw(_drip)),
    "gzip garbage": Fault("repeated", _body(b"\x1f\x8b" + b"junk" * 20, Content_Encoding="gzip")),
    "gzip, cut off": Fault(
        "repeated", lambda text: Reply(gzip.compress(_whole(text))[:-30], 200, {"Content_Encoding": "gzip"})
    ),
    "empty body": Fault("repeated", _body(b"")),
    "not JSON": Fault("repeated", _body(f"{FAULTY} {{".encode())),
    "HTML page": Fault("repeated", _body(f"<html>{FAULTY}</html>".encode(), Content_Type="text/html")),
    "JSON of another form": Fault("repeated", _body([{"generated_text": FAULTY}])),
    "JSON nested deep": Fault("repeated", _body(b'{"choices":' + b"[" * 100_000)),
    "stream of events": Fault("repeated", _sent(lambda data: _head(len(data) + 8) + b"data: " + data + b"\n\n")),
    "choices null": Fault("repeated", _body({"choices": None})),
    "no message": Fault("repeated", _body({"choices": [{"text": FAULTY, "finish_reason": "stop"}]})),
    "content a number": Fault("repeated", _message({"role": "assistant", "content": 5})),
    "content a list": Fault("repeated", _message({"role": "assistant", "content": [{"text": FAULTY}]})),
    "choices empty": Fault("dropped", _body({"choices": []})),
    "ended by a filter": Fault("dropped", _message({"role": "assistant", "content": FAULTY}, "content_filter")),
    "content null": Fault("taken", _message({"role": "assistant", "content": None})),
    "two choices": Fault("taken", _twice),
    "usage negative": Fault("taken", lambda text: metered(completion(text), -5, 10**400)),
    "usage of words": Fault("taken", lambda text: Reply(completion(text).body | {"usage": ["many"]})),
    "log-probs NaN": Fault("taken", _nan_logprobs),
    "finish reason a list": Fault("taken", lambda text: completion(text, finish=["stop"])),  # type: ignore[arg-type]
    "answer too long": Fault("taken", lambda text: completion(f"{text} {'and so on ' * 100_000}", "length")),
}


class FaultyServer(ChatServer):
    """Answers as the scripted backend does, with a mark of the request in each response, and a share of faults.

    The seed decides which requests a fault answers; the kinds take turns in the order in which requests arrive.

    Attributes:
        tries: What each request (by its messages) was answered with, try by try: a kind, "" for a sound answer.
    """

    def __init__(self, share: float, seed: int) -> None:
        kinds = list(FAULTS)
        random.Random(seed).shuffle(kinds)
        self._kinds, self._share, self._seed = cycle(kinds), share, seed
        self.tries: defaultdict[str, list[str]] = defaultdict(list)
        super().__init__(self._reply)

    def _reply(self, request: dict[str, Any], count: int) -> Reply:
        key = key_of(request["messages"])
        with self.lock:
            tries = self.tries[key]
            drawn = random.Random(f"{self._seed} {key} {len(tries)}").random()
            faulty = count >= SOUND_AT_FIRST and drawn < self._share
            kind = next(self._kinds) if faulty else ""
            tries.append(kind)
        text = scripted(request, count).body["choices"][0]["message"]["content"]
        if request["temperature"] > 0:  # a response; others are choices of aspects, which are JSON
            text = f"{text} {mark(key)}"
        return FAULTS[kind].reply(text) if kind else completion(text)


def key_of(messages: Any) -> str:
    return json.dumps([[message["role"], message["content"]] for message in messages])


def mark(key: str) -> str:
    return f"Mark {hashlib.sha256(key.encode()).hexdigest()[:12]}."


def query_of(text: str) -> str:
    """Return the number of the query that a text is about, "" for none: a harmless trial request has none."""
    found = re.search(r"Number (\d{5}):", text)
    return found[1] if found else ""


@dataclass
class Report:
    """What came of a run: outcomes by kind, and everything that is wrong."""

    rows: int = 0
    dropped: int = 0
    requests: int = 0
    seconds: float = 0.0
    outcomes: dict[str, Counter[Fate]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def matrix(folder: Path, *, queries: int, share: float, seed: int, failed: Literal["stop", "drop"]) -> Report:
    """Run the command against a faulty server; return what came of it."""
    folder.mkdir()
    asked = [f"Number {number:05d}: what is it good for?" for number in range(queries)]
    (folder / "queries.txt").write_text("\n".join(asked), encoding="utf-8")
    server = FaultyServer(share, seed)
    endpoint = {"model": "faulty", "base_url": server.url, "timeout": TIMEOUT, "concurrency": 32}
    endpoint |= {"failed": failed, "max_retries": 1 if failed == "drop" else 8}
    generation = {"backend": "endpoint", "max_new_tokens": TOKENS, "batch_size": 512, "endpoint": endpoint}
    recipe = scripted_recipe(folder / "queries.txt", 0, generation=generation, quality={"filters": ["identical"]})
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        _COMMAND,
        "generate",
        str(folder / "recipe.yaml"),
        "--run-dir",
        str(folder / "run"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    began = time.monotonic()
    try:
        ended = subprocess.run(
            command, env=environment | {"OPENAI_API_KEY": KEY}, capture_output=True, text=True, timeout=90 + queries
        )
    finally:
        server.close()
    report = Report(requests=len(server.requests), seconds=time.monotonic() - began)
    if ended.returncode:
        report.problems.append(f"exit code {ended.returncode}: {ended.stderr[-1500:]}")
    check_rows(report, folder / "run", {query_of(text) for text in asked}, server.tries)
    return report


def check_rows(report: Report, run_dir: Path, asked: set[str], tries: Mapping[str, Sequence[str]]) -> None:
    rows = list(read_rows(sorted(run_dir.glob("round-01/contrasts/*.parquet")), Contrast))
    queries = read_rows(sorted(run_dir.glob("round-01/queries/*.parquet")), Query)
    number_of = {query.id: query_of(query.prompt[-1]["content"]) for query in queries}
    named: dict[str, str] = {}
    for path in run_dir.rglob("*left-out.json"):
        named |= {number_of.get(line["where"], line["where"]): line["reason"] for line in read_json(path)}
    present = Counter(query_of(row.prompt[-1]["content"]) for row in rows)
    report.rows, report.dropped, wrong = len(rows), len(named), report.problems
    wrong += [f"query {one} is in {count} rows" for one, count in present.items() if count > 1]
    wrong += [f"query {one} is in no row, and not named" for one in sorted(asked - present.keys() - named.keys())]
    wrong += [f"query {one} is in a row, and dropped" for one in sorted(present.keys() & named.keys())]
    wrong += [f"nobody asked for query {one}" for one in sorted((present.keys() | named.keys()) - asked)]
    wrong += [f"query {one} is dropped without a reason" for one, reason in named.items() if not reason]
    for row in rows:
        wrong += [f"query {row.id}: text of a faulty answer"] if FAULTY in repr(row) else []
        prompts = (row.positive_prompt, row.negative_prompt, row.prompt)
        for role, prompt in zip(ROLES, prompts, strict=True):
            key, text = key_of(prompt), getattr(row, f"{role}_response" if hasattr(row, f"{role}_response") else role)
            if mark(key) not in text and tries[key][-1] != "content null":
                wrong.append(f"query {row.id}, {role}: {text[:80]!r} is not the answer to its request")
    for key, kinds in tries.items():
        for place, kind in enumerate(kinds):
            if kind and query_of(key):  # else a trial request
                last = "dropped" if query_of(key) in named else "taken"
                fate: Fate = "repeated" if place < len(kinds) - 1 else last  # type: ignore[assignment]
                report.outcomes.setdefault(kind, Counter())[fate] += 1
                due = FAULTS[kind].fate
                # The last try of several may fail in any way that is not an answer.
                if fate != due and (due, fate) not in (("repeated", "dropped"), ("taken", "dropped")):
                    wrong.append(f"{kind}: {fate}, not {due} (query {query_of(key)})")
    secret = [path for path in run_dir.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    wrong += [f"the key is in {path}" for path in secret]


def show(report: Report) -> None:
    """Print the table of a run and what is wrong."""
    print(f"{'kind':<32}{'served':>8}{'repeated':>10}{'dropped':>9}{'taken':>7}")
    for kind in FAULTS:
        found = report.outcomes.get(kind, Counter())
        print(f"{kind:<32}{found.total():>8}{found['repeated']:>10}{found['dropped']:>9}{found['taken']:>7}")
    print(
        f"{report.rows} rows, {report.dropped} dropped and named, {report.requests:,} requests, "
        f"{report.seconds:.0f} s, "
        f"{len(report.problems)} problems"
    )
    for problem in report.problems[:40]:
        print(f"  {problem}")


def main() -> None:
    """Print a table for each way of failing; exit 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.3, help="of the requests that a fault answers")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    problems = 0
    for failed in ("stop", "drop"):
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            report = matrix(
                Path(folder) / failed, queries=asked.queries, share=asked.share, seed=asked.seed, failed=failed
            )
        print(f"failed={failed}, {len(FAULTS)} kinds")
        show(report)
        problems += len(report.problems)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
