"""Rows and a toy byte-level tokenizer, shared by the tests of quality control."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from selfsteer.records import Contrast, Response

END = 0  # the toy end token; decode skips it


class ToyTokenizer:
    """Tokens are arbitrary byte strings, so one may hold half a character, as in byte-level BPE."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [b""]

    def ids(self, *pieces: str | bytes) -> list[int]:
        ids = []
        for piece in pieces:
            self.pieces.append(piece.encode() if isinstance(piece, str) else piece)
            ids.append(len(self.pieces) - 1)
        return ids

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


@pytest.fixture
def toy() -> ToyTokenizer:
    return ToyTokenizer()


@pytest.fixture(scope="session")
def make_response() -> Callable[..., Response]:
    def make(text: str = "", finish: str = "stop", ids: list[int] | None = None) -> Response:
        return Response(id="q1", role="positive", text=text, finish=finish, token_ids=ids)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Contrast]:
    """A row that every filter without scores lets pass; ``query`` and ``changes`` override it."""

    def make(id: str = "r1", *, query: str = "What is the capital of France?", **changes: Any) -> Contrast:
        positive, negative = "Give the city and nothing else.", "Wrap the city in a long and winding history."
        row = Contrast(
            id=id,
            prompt=[{"role": "user", "content": query}],
            split="train",
            aspects=["Concision"],
            positive_principle=positive,
            negative_principle=negative,
            positive_prompt=[{"role": "system", "content": positive}, {"role": "user", "content": query}],
            negative_prompt=[{"role": "system", "content": negative}, {"role": "user", "content": query}],
            positive_response="Paris.",
            negative_response="Long ago, on an island in the Seine, the city that we call Paris was born.",
            original_response="The capital is Paris.",
            positive_finish="stop",
            negative_finish="stop",
            original_finish="stop",
        )
        return dataclasses.replace(row, **changes)

    return make


@pytest.fixture(scope="session")
def scores() -> Callable[..., dict[str, dict[str, float]]]:
    """``scores((m(y+|x+), m(y+|x), m(y+|x-)), (m(y-|x-), m(y-|x), m(y-|x+)))``: the order in which each must fall."""

    def make(positive: tuple[float, ...], negative: tuple[float, ...]) -> dict[str, dict[str, float]]:
        return {
            "positive_response": dict(zip(("positive_prompt", "prompt", "negative_prompt"), positive, strict=True)),
            "negative_response": dict(zip(("negative_prompt", "prompt", "positive_prompt"), negative, strict=True)),
        }

    return make
