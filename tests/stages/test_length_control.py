"""The knobs against growing length act in a run: Concision for a share of the queries, and the ratio of lengths."""

from __future__ import annotations

import pytest

from selfsteer.loop import generate
from tests.run_helpers import contrasts, scripted_recipe, without_reports

QUERIES = 400


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "queries.txt"
    path.write_text("".join(f"What should I know about place {number}?\n" for number in range(QUERIES)))
    return path


def made(folder, many, **sections):
    with without_reports():
        generate(scripted_recipe(many, 0, **({"quality": {"filters": []}} | sections)), folder)
    return contrasts(folder)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
def test_concision_steers_the_asked_share_of_the_rows(tmp_path, many, rate):
    rows = made(tmp_path, many, principles={"set": "quality", "extra_rate": rate})
    concise = [row for row in rows if "Concision" in row.aspects]
    spread = 4 * (rate * (1 - rate) / QUERIES) ** 0.5  # four standard deviations
    assert abs(len(concise) / QUERIES - rate) <= spread
    told = {row.id for row in rows if "concise" in row.positive_prompt[0]["content"]}
    assert told == {row.id for row in concise}, "it stands in the prompt that y+ is sampled from, and only there"


def test_the_length_ratio_drops_exactly_the_pairs_beyond_it(tmp_path, many):
    rows = made(tmp_path, many, quality={"filters": [{"length_ratio": {"max_ratio": 1.5}}]})
    lengths = {row.id: sorted(len(getattr(row, f"{role}_response").split()) for role in ("positive", "negative"))
               for row in rows}  # fmt: skip
    beyond = {name for name, (short, long) in lengths.items() if long > 1.5 * short}
    assert 0 < len(beyond) < QUERIES
    assert {row.id for row in rows if not row.kept} == beyond
