"""Speed of the data factory, from queries to responses on disk, against what one would write by hand.

    python benchmarks/generate.py                       # 64 real queries, the 135M model, four ways
    python benchmarks/generate.py --ways ab             # some of the ways

With the python of .venv-vllm (make vllm); another one leaves out the two ways that need vLLM. All make the same
requests: for each query the choice of its aspects, then y+, y- and yo under the prompts that these gave.

(a) is plain model.generate as one writes it: batches in the order of arrival, padded on the left, nothing shared.
(b) is ours on transformers: the stages queries, principles and responses of a run, with all that they write.
(c) is the raw vLLM engine: one call for all choices and one for all responses, token ids in and out, prefix cache on.
(d) is ours on that same engine.

The ways take turns in one process, after a few queries each that warm up; loading is told apart. Sampled lengths differ
by chance, so look at tokens/s too. What (d) adds to its engine needs no such care: it is the time outside of the
engine's own generate. Report ratios: times on a shared machine move.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, before torch allocates


from selfsteer.config import Recipe, from_values
from selfsteer.contrast import requests
from selfsteer.principles import chooser_messages, load_set
from selfsteer.records import ROLES, Message, Query, SteeredQuery
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store, in_batches
from selfsteer.stages.context import RunContext
from selfsteer.stages.model_pool import ModelPool

NAMES = {
    "a": "(a) plain model.generate",
    "b": "(b) selfsteer on transformers",
    "c": "(c) raw vLLM",
    "d": "(d) selfsteer on vLLM",
}
RATIOS = ("ba", "ca", "da", "db", "dc")
"""Which way is compared with which."""
CHOICE_TOKENS = 24
"""New tokens of a choice at most, as in selfsteer.stages.responses."""
WARM_UP = 4
"""Queries that each way does before anything is timed."""
ENGINE = ("max_model_len=4096", "kv_cache_memory_bytes=4294967296")
"""Room for all requests at once. Left to itself, vLLM takes nearly all memory of a machine without a GPU."""


def main() -> None:
    settings = _arguments()
    found = factory(settings)
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--source", default="builtin:quickstart", help="where the queries are")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of a response at most")
    parser.add_argument("--set", default="quality", help="principle set; of this one the model chooses the aspects")
    parser.add_argument("--batch", type=int, default=16, help="requests in a batch of (a) and (b)")
    parser.add_argument("--precision", default="auto", help='"auto" is what this machine is fast at')
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", default="abcd")
    parser.add_argument("--engine", nargs="*", default=ENGINE, metavar="KEY=VALUE", help="arguments of vllm.LLM")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    return parser.parse_args()


# --- the ways


@dataclass(frozen=True)
class Made:
    """What one pass over the queries took and gave.

    Attributes:
        choosing: Seconds until the aspects were chosen.
        responding: Seconds from there to the last response.
        engine: Seconds of all these that were spent inside of the engine's own ``generate``.
        queries: Number of them.
        tokens: Sampled tokens of their responses, end tokens included.
    """

    choosing: float
    responding: float
    engine: float
    queries: int
    tokens: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.choosing + self.responding

    @property
    def added(self) -> float:
        """What comes on top of the engine's own time, as a share of it."""
        return self.seconds / self.engine - 1


class Clock:
    """Adds up the seconds that are spent inside of an object's ``generate``, whoever calls it."""

    def __init__(self, engine: Any) -> None:
        self.seconds = 0.0
        self._inner: Callable[..., Any] = engine.generate
        engine.generate = self._timed

    def _timed(self, *args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return self._inner(*args, **named)
        finally:
            self.seconds += time.perf_counter() - started


class Ours:
    """(b) and (d): the stages of a run, each time in a new run directory."""

    def __init__(self, recipe: Recipe) -> None:
        started = time.perf_counter()
        self.recipe, self.set = recipe, load_set(recipe.principles.set)
        self.models = ModelPool(recipe, Path())
        self.policy = self.models.start(lambda _: None)
        self.backend: Any = self.models.backend(self.policy)
        self.loading = time.perf_counter() - started
        self.on_vllm = recipe.generation.backend == "vllm"
        self.engine = self.backend._llm if self.on_vllm else self.backend.model
        self.clock = Clock(self.engine)

    def run(self, queries: int) -> Made:
        """Do all stages for the first so many queries."""
        self.refresh()
        with tempfile.TemporaryDirectory() as folder:
            stages = self._stages(folder, queries)
            started = time.perf_counter()
            with stages.store.locked():
                principles = stages.principles(stages.queries(), "train", 1, self.policy)
                chosen = time.perf_counter()
                responses = stages.responses(principles, "train", 1, self.policy)
            ended = time.perf_counter()
        if responses.info["left_out"]:
            raise SystemExit(f"{responses.info['left_out']} queries do not fit and would be done by hand only")
        return Made(chosen - started, ended - chosen, self.clock.seconds, queries, responses.info["tokens"])

    def refresh(self) -> None:
        """Let the engine forget the prompts of earlier passes, and set the clock to zero."""
        if self.on_vllm:
            self.engine.reset_prefix_cache()
        self.clock.seconds = 0.0

    def rows(self) -> list[SteeredQuery]:
        """Return all queries with their steered prompts, in the order of arrival."""
        with tempfile.TemporaryDirectory() as folder:
            stages = self._stages(folder, self.recipe.queries.limit)
            with stages.store.locked():
                queries = stages.queries()
                chosen = stages.principles(queries, "train", 1, self.policy)
                rows = {row.id: row for row in stages.store.read(chosen, SteeredQuery)}
                return [rows[query.id] for query in stages.store.read(queries, Query)]

    def _stages(self, folder: str, queries: int | None) -> RunContext:
        limited = self.recipe.queries.model_copy(update={"limit": queries})
        recipe = self.recipe.model_copy(update={"queries": limited})
        return RunContext(recipe, self.set, Store(Path(folder), Display(silence_transformers=True)), self.models)


class ByHand:
    """(a) and (c): the requests that ours makes, in the order of arrival, put to the same engine."""

    def __init__(self, ours: Ours) -> None:
        self.ours, self.settings, self.chat = ours, ours.recipe.generation, ours.backend.chat
        rows = ours.rows()
        count = ours.recipe.principles.aspects_per_query or ours.set.aspects_per_query
        texts = [row.prompt[-1]["content"] for row in rows]
        self.choices = [chooser_messages(ours.set, text, count, self.chat.system_role) for text in texts]
        self.responses = [request.prompt for request in requests(rows)]

    def run(self, queries: int) -> Made:
        """Ask for the choices, then for the responses, of the first so many queries."""
        choices, responses = self.choices[:queries], self.responses[: len(ROLES) * queries]
        self.ours.refresh()
        started = time.perf_counter()
        self.ask(choices, CHOICE_TOKENS, temperature=0.0)
        chosen = time.perf_counter()
        lengths = self.ask(responses, self.settings.max_new_tokens, temperature=self.settings.temperature)
        ended = time.perf_counter()
        return Made(chosen - started, ended - chosen, self.ours.clock.seconds, queries, sum(lengths))

    def ask(self, prompts: Sequence[Sequence[Message]], tokens: int, *, temperature: float) -> list[int]:
        """Return how many tokens each answer has."""
        raise NotImplementedError


class Plain(ByHand):
    """(a): as the manual of transformers has it."""

    def __init__(self, ours: Ours) -> None:
        super().__init__(ours)
        from selfsteer.models import load_tokenizer

        self.tokenizer = load_tokenizer(ours.policy.path)
        self.tokenizer.padding_side = "left"

    def ask(self, prompts: Sequence[Sequence[Message]], tokens: int, *, temperature: float) -> list[int]:
        """Batches as the prompts come."""
        how: dict[str, Any] = {"do_sample": False}
        if temperature:  # without top_k=0 transformers would sample from the 50 likeliest tokens only
            how = {"do_sample": True, "temperature": temperature, "top_p": self.settings.top_p, "top_k": 0}
        how |= {"eos_token_id": list(self.chat.end_ids), "pad_token_id": self.tokenizer.pad_token_id}
        lengths: list[int] = []
        for batch in in_batches(prompts, self.settings.batch):
            inputs = self.tokenizer.apply_chat_template(
                list(batch), add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            ).to(self.ours.engine.device)
            output = self.ours.engine.generate(**inputs, max_new_tokens=tokens, **how)
            answers = output[:, inputs["input_ids"].shape[1] :]
            self.tokenizer.batch_decode(answers, skip_special_tokens=True)
            lengths += map(self._length, answers.tolist())
        return lengths

    def _length(self, ids: Sequence[int]) -> int:
        return next((place + 1 for place, token in enumerate(ids) if token in self.chat.end_ids), len(ids))


class Raw(ByHand):
    """(c): token ids in, token ids out; the texts are left to whoever asks."""

    def __init__(self, ours: Ours) -> None:
        super().__init__(ours)
        self.choices = [{"prompt_token_ids": self.chat.encode(prompt)} for prompt in self.choices]
        self.responses = [{"prompt_token_ids": self.chat.encode(prompt)} for prompt in self.responses]

    def ask(self, prompts: Sequence[Any], tokens: int, *, temperature: float) -> list[int]:
        """One call."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=temperature,
            top_p=self.settings.top_p if temperature else 1.0,
            max_tokens=tokens,
            stop_token_ids=list(self.chat.end_ids),
            ignore_eos=True,
            detokenize=False,
        )
        outputs = self.ours.engine.generate(prompts, params, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]


# --- the factory


def factory(settings: argparse.Namespace) -> dict[str, Any]:
    """Time the ways and print them side by side."""
    from selfsteer.models import silence_transformers

    silence_transformers()
    ways = [way for way in NAMES if way in settings.ways]
    missing = [way for way in ways if way in "cd" and not find_spec("vllm")]
    with ExitStack() as until_done:
        runners, loading = _opened(settings, [way for way in ways if way not in missing], until_done)
        made = interleaved(runners, settings.queries, settings.repeats)
    report(settings, made, loading, missing)
    return {"loading": loading, "made": {way: list(map(asdict, passes)) for way, passes in made.items()}}


def _opened(
    settings: argparse.Namespace, ways: Sequence[str], until_done: ExitStack
) -> tuple[dict[str, Ours | ByHand], dict[str, float]]:
    """Return the ways, and the seconds that loading took."""
    runners: dict[str, Ours | ByHand] = {}
    loading: dict[str, float] = {}
    for backend, by_hand, own in (("transformers", "a", "b"), ("vllm", "c", "d")):
        if by_hand not in ways and own not in ways:
            continue
        ours = Ours(_recipe(settings, backend))
        until_done.callback(ours.models.free)
        loading[backend] = ours.loading
        if by_hand in ways:
            runners[by_hand] = Plain(ours) if backend == "transformers" else Raw(ours)
        if own in ways:
            runners[own] = ours
    return runners, loading


def _recipe(settings: argparse.Namespace, backend: str) -> Recipe:
    values = {
        "mode": "data-only",
        "model": {"name": settings.model},
        "queries": {"source": settings.source, "limit": settings.queries, "heldout": 0},
        "principles": {"set": settings.set},
        "generation": {"backend": backend, "max_new_tokens": settings.tokens, "precision": settings.precision},
    }
    if backend == "vllm":
        return from_values(Recipe, values, [f"generation.vllm.{option}" for option in settings.engine])
    return from_values(Recipe, values, [f"generation.batch_size={settings.batch}"])


def interleaved(runners: dict[str, Ours | ByHand], queries: int, repeats: int) -> dict[str, list[Made]]:
    """Return the passes of each way. Every other round goes backwards, so that no way always comes after the same."""
    for runner in runners.values():
        runner.run(min(WARM_UP, queries))
    made: dict[str, list[Made]] = {way: [] for way in runners}
    for number in range(repeats):
        for way in list(runners)[:: -1 if number % 2 else 1]:
            made[way].append(runners[way].run(queries))
            print(f"{NAMES[way]}, pass {number + 1}: {made[way][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return made


def report(
    settings: argparse.Namespace, made: dict[str, list[Made]], loading: dict[str, float], missing: Sequence[str]
) -> None:
    """Print a line a way, then the ratios."""
    import torch

    from selfsteer.models import pick_device, pick_dtype

    print(
        f"{settings.queries} queries of {settings.source}, {settings.model} in "
        f"{pick_dtype(settings.precision, pick_device())}, set {settings.set}, responses of up to {settings.tokens} "
        f"tokens, {torch.get_num_threads()} threads, batches of {settings.batch} in (a) and (b); medians of "
        f"{settings.repeats} passes\n"
    )
    print("| | queries/s | tokens/s | choosing | responding | tokens | on top of the engine's time |")
    print("|---|---|---|---|---|---|---|")
    for way, passes in made.items():
        cells = [
            f"{_median(one.queries / one.seconds for one in passes):.3f}",
            f"{_median(one.tokens / one.seconds for one in passes):.1f}",
            f"{_median(one.choosing for one in passes):.1f} s",
            f"{_median(one.responding for one in passes):.1f} s",
            f"{_median(one.tokens for one in passes):,.0f}",
            _spread([one.added for one in passes], ".2%"),
        ]
        print(f"| {NAMES[way]} | {' | '.join(cells)} |")
    for way in missing:
        print(f"| {NAMES[way]} | not run: vllm is not installed | | | | | |")
    print("\n| as fast as | queries/s | tokens/s | choosing | responding |")
    print("|---|---|---|---|---|")
    for way, other in (pair for pair in RATIOS if set(pair) <= made.keys()):
        pairs = list(zip(made[way], made[other], strict=True))
        cells = [
            _spread([b.seconds / a.seconds * a.queries / b.queries for a, b in pairs]),
            _spread([b.seconds / a.seconds * a.tokens / b.tokens for a, b in pairs]),
            _spread([b.choosing / a.choosing for a, b in pairs]),
            _spread([b.responding / a.responding for a, b in pairs]),
        ]
        print(f"| ({way}) / ({other}) | {' | '.join(cells)} |")
    print(f"\nnot counted: {', '.join(f'loading {name} {seconds:.1f} s' for name, seconds in loading.items())}")


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return "2.31 (2.25 to 2.37)"."""
    around = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{_median(values):{form}}{around}"


if __name__ == "__main__":
    main()
