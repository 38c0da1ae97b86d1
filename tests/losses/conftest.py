"""Helpers for the loss tests: the golden files of ../shared and random pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsteer.losses import PairLogps
from selfsteer.views import SSO_VIEWS, View

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden files at {GOLDEN}"), id="absent")
ROLES = ("chosen", "rejected")


@dataclass
class Golden:
    """One golden result: the inputs as bundles (the policy's log-probs ask for gradients), the numbers as stored."""

    policy: dict[View, PairLogps]
    reference: dict[View, PairLogps]
    name: str
    beta: float
    margin: float
    expected: dict[str, Any]


def _bundles(logps: dict, lengths: dict, dtype: torch.dtype, grad: bool = False) -> dict[View, PairLogps]:
    """Bundle (B,) lists per view and role."""
    return {
        view: PairLogps(
            *(torch.tensor(logps[view][role], dtype=dtype, requires_grad=grad) for role in ROLES),
            *(torch.tensor(lengths[view][role]) for role in ROLES),
        )
        for view in SSO_VIEWS
    }


def _losses_json() -> Iterator[tuple[str, Callable[[], Golden]]]:
    for case in json.loads((GOLDEN / "losses.json").read_text())["cases"]:
        for result in case["results"]:

            def build(case: dict = case, result: dict = result) -> Golden:
                policy = _bundles(case["policy_logps"], case["lengths"], torch.float64, grad=True)
                reference = _bundles(case["reference_logps"], case["lengths"], torch.float64)
                return Golden(policy, reference, result["base_loss"], result["beta"], result["margin"], result)

            yield f"{case['id']}-{result['base_loss']}-{result['beta']}", build


def _sequences_json() -> Iterator[tuple[str, Callable[[], Golden]]]:
    for number, example in enumerate(json.loads((GOLDEN / "sequences.json").read_text())["examples"]):
        cells = {model: {v.value: {} for v in SSO_VIEWS} for model in ("base", "perturbed")}
        lengths: dict[str, dict[str, list[int]]] = {v.value: {} for v in SSO_VIEWS}
        for row in example["rows"]:
            lengths[row["view"]][row["role"]] = [row["response_len"]]
            for model, logps in cells.items():
                logps[row["view"]][row["role"]] = [row[f"logp_{model}"]]
        for models, results in example["losses"].items():
            policy = models.split(",")[0].removeprefix("policy=")
            for key, expected in results.items():
                name, beta = key.split("_beta")

                def build(
                    logps: dict = cells[policy],
                    base: dict = cells["base"],
                    lengths: dict = lengths,
                    name: str = name,
                    beta: float = float(beta),
                    expected: dict = expected,
                ) -> Golden:
                    policy_pairs = _bundles(logps, lengths, torch.float32)
                    margin = 0.5 if name == "simpo" else 0.0
                    return Golden(policy_pairs, _bundles(base, lengths, torch.float32), name, beta, margin, expected)

                yield f"{number}-{policy}-{key}", build


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that ask for ``golden`` every case of losses.json, ``golden_float32`` of sequences.json."""
    for fixture, load in (("golden", _losses_json), ("golden_float32", _sequences_json)):
        if fixture in metafunc.fixturenames:
            params = [pytest.param(build, id=id) for id, build in load()] if GOLDEN.is_dir() else [ABSENT]
            metafunc.parametrize(fixture, params, indirect=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return request.param()


@pytest.fixture
def golden_float32(request: pytest.FixtureRequest) -> Golden:
    return request.param()


@pytest.fixture
def pair() -> Callable[..., PairLogps]:
    """Build a bundle from lists; float64 unless told."""

    def make(chosen: list, rejected: list, lengths: tuple[list, list], dtype: torch.dtype = torch.float64) -> PairLogps:
        logps = (torch.tensor(values, dtype=dtype) for values in (chosen, rejected))
        return PairLogps(*logps, *(torch.tensor(counts) for counts in lengths))

    return make


@pytest.fixture
def random_views() -> Callable[..., tuple[dict[View, PairLogps], dict[View, PairLogps]]]:
    """Build (policy, reference) of B examples for every view: unequal lengths, near but not equal to each other."""

    def make(batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[dict, dict]:
        rng = torch.Generator().manual_seed(seed)
        policy, reference = {}, {}
        for view in View:
            lengths = [torch.randint(3, 40, (batch,), generator=rng) for _ in ROLES]
            means = [0.2 + 2 * torch.rand(batch, generator=rng, dtype=torch.float64) for _ in ROLES]
            moved = [m * (1 + 0.3 * (torch.rand(batch, generator=rng, dtype=torch.float64) - 0.5)) for m in means]
            sums = [[(-m * n).to(dtype) for m, n in zip(side, lengths, strict=True)] for side in (moved, means)]
            policy[view] = PairLogps(*(s.requires_grad_() for s in sums[0]), *lengths)
            reference[view] = PairLogps(*sums[1], *lengths)
        return policy, reference

    return make
