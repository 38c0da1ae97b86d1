"""Which rows the inspector gets, and what it highlights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from selfsteer.errors import ConfigError, InputError
from selfsteer.loop import run
from selfsteer.quality import leak
from selfsteer.records import Contrast, write_rows
from selfsteer.report import contrasts
from selfsteer.report.contrasts import marked, read_contrasts
from selfsteer.report.formatting import percent
from selfsteer.report.interval_chart import chart
from selfsteer.report.several import write_runs_report
from tests.example_rows import BRIEF, contrast
from tests.report.example import write_full_run
from tests.run_helpers import scripted_recipe, without_reports, write_queries


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file of rows of a scripted run, to be replaced."""
    folder = tmp_path_factory.mktemp("runs")
    with without_reports():
        run(scripted_recipe(write_queries(folder), heldout=0), folder / "run")
    (found,) = (folder / "run/round-01/contrasts").glob("*.parquet")
    return found


def _read(shard: Path, rows: list[Contrast]) -> contrasts.Contrasts:
    write_rows(shard, Contrast, rows)
    found = read_contrasts(shard.parents[2])
    assert found
    return found


def test_a_large_run_is_sampled_in_proportion_with_each_filter_in_it(shard):
    rows = [contrast(f"{i:04d}") for i in range(2000)]
    rows[500:900] = [row.drop("leak: y+ repeats its instructions: 'x'") for row in rows[500:900]]
    rows[1234] = rows[1234].drop("identical: y+ equals y-")
    found = _read(shard, rows)
    assert (len(found.rows), found.total, found.strata) == (500, 2000, 3)
    counts = Counter(row["outcome"] for row in found.rows)
    assert counts["identical"] == 1 and abs(counts["leak"] - 100) <= 1 and abs(counts["kept"] - 399) <= 1
    ids = [int(row["id"]) for row in found.rows if row["kept"]]
    assert sum(number < 1000 for number in ids) == pytest.approx(len(ids) * 600 / 1599, abs=15), "spread over the file"
    assert found == _read(shard, rows)


def test_long_responses_leave_room_for_fewer_rows(shard):
    rows = [contrast(f"{i:03d}", original_response="word " * 4000) for i in range(300)]
    found = _read(shard, rows)
    assert found.total == 300 and 3_000_000 / 22_000 < len(found.rows) <= 3_000_000 / 20_000


def test_a_small_run_is_shown_whole(shard):
    found = _read(shard, [contrast("b"), contrast("a").drop("empty: no text")])
    assert [(row["id"], row["outcome"]) for row in found.rows] == [("a", "empty"), ("b", "kept")]


def test_a_damaged_file_is_a_sentence_on_the_page(shard):
    shard.write_bytes(b"PAR1")
    found = read_contrasts(shard.parents[2])
    assert found and found.rows == [] and shard.name in found.problem


def test_a_folder_without_rows_has_no_inspector(tmp_path):
    assert read_contrasts(write_full_run(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("Sure. As a CONCISE,\nassistant: yes", "as a concise assistant"),
        ("I\u2019m sorry, no", "I'm sorry"),
        ("**Concise:** yes", "**Concise:"),
        ("a \\ b", "\\"),
    ],
)
def test_what_a_reason_quotes_is_marked(text, quoted):
    parts = marked(text, f"leak: y+ has {quoted!r}", BRIEF)
    assert "".join(parts) == text and len(parts) == 3
    assert leak.words(parts[1]) == leak.words(quoted)


def test_shared_ngrams_are_marked_as_one_run():
    text = "First. Answer in one short sentence, please. Answer them."
    reason = "leak: y+ repeats 100% of its principle's 4-grams (leak.share 0.6)"
    assert marked(text, reason, "Answer in one short sentence") == [
        "First. ",
        "Answer in one short sentence",
        text[35:],
    ]


def test_a_reason_that_quotes_nothing_marks_nothing():
    assert marked("abc", "truncated: y+ ran into the length limit", BRIEF) == ["abc"]
    assert marked("abc \\x", r"odd: '\x'", BRIEF) == ["abc \\", "x", ""]


def test_a_chart_puts_points_and_intervals_on_one_axis():
    drawn = chart("Kept", percent, {"a": 0.25, "b": 0.75}, {"a": (0.0, 0.5), "b": (0.5, 1.0), "c": (0, 9)})
    (a, b) = drawn.lines
    assert a.ends and b.ends and a.ends[1] == b.ends[0] == 50 and a.point + b.point == 100
    assert (drawn.low, drawn.high, drawn.zero) == ("0\u202f%", "100\u202f%", None)
    alone = chart("Kept", percent, {"a": 0.5, "b": 0.5}, {})
    assert [line.ends for line in alone.lines] == [None, None] and alone.lines[0].point == 50


def test_a_page_of_several_runs_names_and_links_each(tmp_path):
    runs = [write_full_run(tmp_path / name / "run") for name in ("a", "b")]
    (runs[0] / "report.html").write_text("")
    page = write_runs_report(runs, tmp_path / "both.html", "selfsteer report a b").read_text(encoding="utf-8")
    assert page.count('<li><span class="run"') == 2 * page.count('<figure class="chart">') > 10
    assert str(runs[1]) in page and 'href="a/run/report.html"' in page and 'href="b/run/' not in page
    with pytest.raises(ConfigError, match="named twice"):
        write_runs_report([runs[0], runs[0]], tmp_path / "twice.html", "")
    with pytest.raises(InputError, match="no summary"):
        write_runs_report([runs[0], tmp_path], tmp_path / "none.html", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "both.html"]
