"""The card: metadata that the Hub and `datasets` read, the figures, and nothing that should stay on the machine."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from selfsteer.config import Recipe
from selfsteer.export import FORMATS, ExportOptions, Licence, RunFacts, export_folder
from selfsteer.export.card import size_category
from selfsteer.export.redaction import public_row, public_settings, public_text
from selfsteer.records import HARM_UNKNOWN
from selfsteer.views import View
from tests.example_rows import contrast, scores
from tests.export.helpers import LICENCE, to_folder


def card_of(rows, folder, order=None, **options):
    options = {"where": "a test", "licence": LICENCE} | options
    export_folder(rows, order or ExportOptions("trl"), folder, **options)
    return (folder / "README.md").read_text(encoding="utf-8")


def front(card):
    opening, metadata, body = card.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(metadata), body


def cells(card):
    """The two-column rows of a card's tables."""
    rows = (line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| "))
    return {row[0]: row[1:] for row in rows}


def recipe(**changes):
    return Recipe.model_validate({"mode": "data-only", "generation": {"backend": "scripted"}} | changes)


@pytest.mark.parametrize("name", FORMATS)
def test_the_metadata_is_what_the_hub_reads(tmp_path, name):
    card = card_of([contrast("a"), contrast("b")], tmp_path / "my set", ExportOptions(name))
    metadata, body = front(card)
    assert metadata["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    ]
    assert metadata["license"] == "mit" and metadata["pretty_name"] == "my set"
    assert metadata["size_categories"] == ["n<1K"] and metadata["task_categories"] == ["text-generation"]
    assert {"selfsteer", "preference", *FORMATS[name].tags} <= set(metadata["tags"])
    assert "answer badly" in body and "# my set" in body


def test_flags_of_harm_are_counted_and_the_marker_named(tmp_path):
    rows = [
        contrast("a", negative_harmful="principle: Safety; classifier: 0.93"),
        contrast("b", negative_harmful="classifier: 0.71"),
        contrast("c"),
    ]
    card = card_of(rows, tmp_path / "full")
    assert cells(card)["principle: Safety"] == ["1"] and cells(card)["classifier"] == ["2"]
    assert "column `negative_harmful` marks them" in card and "chosen responses" not in card
    assert "no column that marks them" in card_of(rows, tmp_path / "minimal", ExportOptions("trl", full=False))
    strict = ExportOptions("trl", View.NEGATIVE_STRICT, harmful=True)
    assert "**In this export these y- are chosen responses.**" in card_of(rows, tmp_path / "strict", strict)
    assert "No y- is flagged" in card_of(rows[2:], tmp_path / "none")


def test_y_minus_of_which_nobody_knows_are_counted_apart(tmp_path):
    unknown = contrast("a", negative_harmful=HARM_UNKNOWN)
    alone = card_of([unknown], tmp_path / "alone")
    assert cells(alone)["unknown"] == ["1"] and "it is unknown whether they were asked to do harm" in alone
    assert "is flagged as harmful" not in alone and "column `negative_harmful` marks them" in alone
    both = card_of([unknown, contrast("b", negative_harmful="classifier: 0.71")], tmp_path / "both")
    assert cells(both)["unknown"] == cells(both)["classifier"] == ["1"]


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (1_000_000, "1M<n<10M"),
        (999_999_999_999, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_sizes_have_the_hubs_names(rows, name):
    assert size_category(rows) == name


def test_counts_and_figures_are_those_of_the_rows(tmp_path):
    rows = [
        contrast(
            "a",
            scores=scores((-1.0, -0.5, -2.0), (-2.0, -3.0, -1.0)),
            positive_response="abcd",
            negative_response="ab",
            original_response="abc",
            positive_token_ids=[1, 2],
            round=1,
            provenance={"model": "m1", "seed": "0"},
        ),
        contrast(
            "b",
            scores=scores((-1.0, -0.5, -0.5), (-3.0, -3.0, -3.0)),
            positive_response="ab",
            negative_response="ab",
            original_response="abcde",
            negative_finish="length",
            aspects=["Concision", "Safety"],
            round=2,
            provenance={"model": "m2", "seed": "0"},
        ),
        contrast("c").drop("leak: x"),
        contrast("d").drop("leak: y"),
        contrast("e").drop("identical: y"),
        contrast("f", split="heldout"),
    ]
    card = card_of(rows, tmp_path / "set", run=RunFacts({}, {"queries read": 1234}))
    table = cells(card)
    assert table["rows"] == ["2"] and table["of round 1"] == table["of round 2"] == ["1"]
    assert table["queries read"] == ["1,234"] and table["rows with three responses"] == ["6"]
    assert table["dropped by the filter leak"] == ["2"] and table["dropped by the filter identical"] == ["1"]
    assert table["left out: held out"] == ["1"]
    assert table["y+"] == ["3", "2", "0.0%"]  # characters 4 and 2; tokens of the one row that has them
    assert table["y-"] == ["2", "-", "50.0%"]
    assert table["yo"] == ["4", "-", "0.0%"]
    onpolicyness = (math.exp(-1) + math.exp(-2) + math.exp(-1) + math.exp(-3)) / 4
    (found,) = (row for name, row in table.items() if name.startswith("on-policyness"))
    assert found == ["2", f"{onpolicyness:.3f}"]
    margin = next(line for line in card.splitlines() if line.startswith("| steering margin"))
    assert margin.endswith("| 2 | 1.750 |")  # 1.5 + 2 and 0 + 0
    assert table["Concision"] == ["2"] and table["Safety"] == ["1"]
    assert table["model"] == ["m1; m2"] and table["seed"] == ["0"]
    assert "cut off at its length limit: 1." in card and "*_finish" in card


def test_rows_without_scores_have_no_figures_of_them(tmp_path):
    card = card_of([contrast("a")], tmp_path / "set")
    assert "carry no scores" in card and "steering margin, nats" not in card


def test_many_values_of_one_kind_are_cut_short(tmp_path):
    rows = [contrast(f"q{number}", provenance={"model": f"m{number}"}) for number in range(9)]
    assert cells(card_of(rows, tmp_path / "set"))["model"] == ["m0; m1; m2; m3; m4; and others"]


def test_unpaired_rows_are_counted_as_rows_and_as_pairs(tmp_path):
    table = cells(card_of([contrast("a"), contrast("b")], tmp_path / "set", ExportOptions("trl-unpaired")))
    assert table["rows"] == ["4"] and table["pairs"] == ["2"]


def test_the_card_says_where_cut_responses_can_not_be_told(tmp_path):
    rows = [contrast("a", positive_finish="length")]
    assert "most put an end token" in card_of(rows, tmp_path / "a", ExportOptions("llama-factory"))
    assert "most put an end token" in card_of(rows, tmp_path / "b", ExportOptions("trl", full=False))
    assert "*_finish" not in (tmp_path / "b/README.md").read_text()
    assert "most put an end token" not in card_of(rows, tmp_path / "c", ExportOptions("contrast"))


def test_the_warning_fits_the_view(tmp_path):
    base = card_of([contrast()], tmp_path / "a")
    assert "it is the rejected response" in base and "under x, y+ is chosen and y- rejected" in base
    assert "answer badly" in card_of([contrast()], tmp_path / "d", ExportOptions("contrast"))
    negative = card_of([contrast()], tmp_path / "b", ExportOptions("trl", view=View.NEGATIVE))
    assert "under x-, yo is chosen and y+ rejected" in negative and "it is the rejected response" not in negative
    assert "asks for a bad answer" in negative and "y- was written" not in negative
    strict = card_of([contrast()], tmp_path / "c", ExportOptions("trl", view=View.NEGATIVE_STRICT))
    assert "y- is the chosen response" in strict and "y- is the chosen response" not in base + negative


def test_licences():
    assert Licence.of("cc-by-4.0", "builtin:quickstart").id == "cc-by-4.0"
    assert Licence.of(None, "builtin:quickstart").id == "apache-2.0"
    for source in ("queries.jsonl", None):
        unknown = Licence.of(None, source)
        assert unknown.id == "unknown" and unknown.said_by.startswith("unknown: ")


def test_text_from_outside_stays_in_its_cell(tmp_path):
    nasty = "a | b\n# title <img src=x> [link](http://x) `code` \x1b[31m"
    card = card_of([contrast(aspects=[nasty], provenance={nasty: nasty})], tmp_path / "set")
    assert "\n# title" not in card and "\x1b" not in card
    lines = [line for line in card.splitlines() if "title" in line]
    assert len(lines) == 2
    assert all("\\<img" in line and "\\[link\\]" in line and "a \\| b" in line for line in lines)


def test_settings_are_shown_without_what_should_stay_on_the_machine(tmp_path):
    secret = recipe(
        model={"name": "/home/someone/models/tiny"},
        queries={"source": "/data/secret customer/queries.jsonl", "heldout": "C:\\Users\\me\\held.csv"},
        principles={"set": "../sets/mine.yaml"},
        judge={
            "name": "endpoint:/srv/judge-7b",
            "base_url": "https://judge.corp.example:8000/v1",
            "template": "~/templates/ask.jinja",
        },
        generation={
            "backend": "vllm",
            "vllm": {"hf_token": "hf_s3cret", "download_dir": "/scratch/me/cache", "tokens": ["/a/b"]},
        },
    )
    settings = public_settings(secret)
    text = card_of([contrast()], tmp_path / "set", run=RunFacts(settings))
    hidden = ("someone", "customer", "Users", "corp.example", "s3cret", "scratch", "/a/", "srv", "~/")
    assert [word for word in hidden if word in text] == []
    assert settings["model"]["name"] == "tiny"
    assert (settings["queries"]["source"], settings["queries"]["heldout"]) == ("queries.jsonl", "held.csv")
    assert settings["principles"]["set"] == "mine.yaml"
    assert settings["judge"]["name"] == "endpoint:judge-7b" and settings["judge"]["template"] == "ask.jinja"
    assert settings["judge"]["base_url"] == settings["generation"]["vllm"]["hf_token"] == "(left out)"
    assert settings["judge"]["api_key_env"] == "OPENAI_API_KEY"
    shown = yaml.safe_load(text.split("~~~~~yaml\n")[1].split("~~~~~")[0])
    assert shown == settings


def test_settings_that_name_nothing_private_are_shown_as_they_are():
    plain = recipe(queries={"source": "org/name:config"}, model={"name": "org/model"}, principles={"set": "brief"})
    assert public_settings(plain) == plain.model_dump(mode="json")
    relative = recipe(queries={"source": "customer/queries.jsonl.gz"})
    assert public_settings(relative)["queries"]["source"] == "queries.jsonl.gz"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/models/x", "x"),
        ("/home/me/my models/x/", "x"),
        ("~/models/x", "x"),
        ("~me/x", "x"),
        ("./x", "x"),
        ("../../a/x", "x"),
        ("C:\\Users\\me\\x", "x"),
        ("\\\\server\\share\\x", "x"),
        ("reward:/models/x", "reward:x"),
        ("/home/me/prog.py:prefer", "prog.py:prefer"),
        ("org/name", "org/name"),
        ("org/name:config", "org/name:config"),
        ("temperature 0.7, top_p 0.8", "temperature 0.7, top_p 0.8"),
        ("either/or and 1/2", "either/or and 1/2"),
        ("https://me:pw@host/path?token=x", "https://host/path"),
        ("", ""),
    ],
)
def test_paths_lose_their_folders(text, shown):
    assert public_text(text) == shown


def test_rows_lose_the_folders_in_their_provenance_and_nothing_else(tmp_path):
    text = "it is in /home/me/secret"
    row = contrast(positive_response=text, provenance={"model": "/home/me/models/tiny", "seed": "0"})
    shown = public_row(row)
    assert shown.provenance == {"model": "tiny", "seed": "0"} and shown.positive_response == text
    for name, form in FORMATS.items():
        folder = to_folder([row], tmp_path / name, format=name)
        assert "/home/me/models" not in (folder / "README.md").read_text()
        data = next((folder / "data").iterdir()).read_bytes()
        assert b"/home/me/models" not in data, form
    assert json.loads(FORMATS["trl"].make(shown, ExportOptions("trl").layout)[0]["provenance"])["model"] == "tiny"
