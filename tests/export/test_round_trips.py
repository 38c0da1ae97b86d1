"""What goes into a file comes out of it, in every format and every kind of file, whatever the text."""

from __future__ import annotations

import dataclasses
import json

import pytest

from selfsteer.export import FORMATS, Layout, read_contrasts, read_source
from selfsteer.records import Contrast
from tests.example_rows import contrast, scores
from tests.export.helpers import hard_rows, loaded, to_file, to_folder

KINDS = [(name, suffix) for name, form in FORMATS.items() for suffix in form.suffixes if name != "contrast"]


@pytest.mark.parametrize(("name", "suffix"), KINDS)
def test_datasets_reads_back_what_was_written(tmp_path, name, suffix):
    rows = hard_rows()
    path = to_file(rows, tmp_path / f"rows{suffix}", format=name)
    expected = [made for row in rows for made in FORMATS[name].make(row, Layout())]
    assert loaded(path, tmp_path / "cache") == expected


@pytest.mark.parametrize("name", FORMATS)
def test_datasets_reads_a_folder_by_its_card(tmp_path, name):
    rows = hard_rows()
    folder = to_folder(rows, tmp_path / "set", format=name)
    expected = [made for row in rows for made in FORMATS[name].make(row, Layout())]
    assert loaded(folder, tmp_path / "cache") == expected


@pytest.mark.parametrize(("name", "suffix"), [kind for kind in KINDS if kind[1] == ".jsonl"])
def test_a_line_stays_a_line_for_readers_that_split_at_any_line_end(tmp_path, name, suffix):
    rows = hard_rows()
    text = to_file(rows, tmp_path / f"rows{suffix}", format=name).read_text(encoding="utf-8")
    expected = [made for row in rows for made in FORMATS[name].make(row, Layout())]
    assert [json.loads(line) for line in text.splitlines()] == expected
    assert "😀" in text  # and stays readable


def test_contrasts_come_back_as_they_were(tmp_path):
    full = contrast(
        "full",
        prompt_token_ids=[1, 2],
        positive_token_ids=[3],
        negative_token_ids=[],
        positive_finish="length",
        round=2,
        scores=scores((-1.5, -0.5, -2.0), (-0.25, -3.0, -1.0)),
        provenance={"model": "m", "seed": "0"},
        positive_thinking="hm",
    )
    rows = [*hard_rows(), full]
    path = to_file(rows, tmp_path / "rows.parquet", format="contrast")
    assert list(read_contrasts(path)) == rows
    assert list(read_source(path)) == rows


def test_authors_json_becomes_contrasts_and_authors_json_again(tmp_path):
    first = to_file(hard_rows(), tmp_path / "first.json", format="authors")
    contrasts = to_file(list(read_source(first)), tmp_path / "rows.parquet", format="contrast")
    again = to_file(list(read_contrasts(contrasts)), tmp_path / "again.json", format="authors")
    assert again.read_bytes() == first.read_bytes()
    lines = to_file(list(read_contrasts(contrasts)), tmp_path / "lines.jsonl", format="authors")
    assert list(read_source(lines)) == list(read_source(first))


def test_imported_rows_make_the_same_pairs_as_the_rows_they_came_from(tmp_path):
    """The three views of a contrast survive the way through the authors' form."""
    rows = hard_rows()
    imported = list(read_source(to_file(rows, tmp_path / "a.json", format="authors")))
    for view in ("base", "positive", "negative"):
        make, layout = FORMATS["trl"].make, Layout(view, False)
        assert [make(row, layout) for row in imported] == [make(row, layout) for row in rows]


def test_every_column_of_a_contrast_is_in_its_export(tmp_path):
    path = to_folder([contrast()], tmp_path / "set", format="contrast")
    (row,) = loaded(path, tmp_path / "cache")
    assert set(row) == {field.name for field in dataclasses.fields(Contrast)}
