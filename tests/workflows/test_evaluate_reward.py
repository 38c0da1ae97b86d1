"""`selfsteer evaluate reward`: one table of reward models, implicit rewards and judges over sets of labelled pairs."""

from __future__ import annotations

import gzip
import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import yaml

from selfsteer.errors import ConfigError, DataError
from selfsteer.judges import judge_pairs
from selfsteer.judges.agreement import agreement
from selfsteer.judges.pair_datasets import load_pairs
from selfsteer.workflows.evaluate_reward import groups, length_baseline, read_sets
from tests.conftest import build_model, build_tokenizer

DATA = Path(__file__).parents[3] / "shared/data"
BENCH = Path(__file__).parents[2] / "selfsteer/evaluation/benchmarks/rewardbench.yaml"
ROWS = [
    {"input": "q1", "output_1": "one", "output_2": "two words", "label": 2},
    {"input": "q2", "output_1": "one", "output_2": "two words", "label": 1},
    {"input": "q3", "output_1": "a b c", "output_2": "d e f", "label": 1},
    {"input": "q4", "output_1": "a b c", "output_2": "d", "label": 1},
    {"input": "q5", "output_1": "a b c", "output_2": "d", "label": None},
]
"""Of the four with a label the longer one is right in 2, wrong in 1, and 1 is a tie."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("selfsteer.confidence_intervals._RESAMPLES", 20)  # for kappas, which are not looked at here
    (tmp_path / "pairs.json").write_text(json.dumps(ROWS))
    return tmp_path


@pytest.fixture
def evaluate(folder, command_line):
    """Run the command in the working folder."""
    return lambda *arguments, program=("evaluate", "reward"): command_line(*program, *arguments)


def cells(shown: str, judge: str) -> list[list[str]]:
    """The cells of a judge's rows, split at two spaces."""
    lines = [line.strip() for line in shown.splitlines() if line.strip().startswith(f"{judge}  ")]
    return [[cell.strip() for cell in line.removeprefix(judge).split("  ") if cell.strip()] for line in lines]


def test_judges_stand_beside_what_length_alone_gives(evaluate, folder):
    code, shown, _ = evaluate("pairs.json", "--judge", "program:shorter", "--json", "out.json")
    assert code == 0
    assert cells(shown, "longer is better") == [["50 % (15-85)", "50 % (15-85)", "1, 1, 0"]]
    assert cells(shown, "shorter") == [["25 % (5-70)", "25 % (5-70)", "2, 1, 0"]]
    assert "pairs: 1 rows left out: no label" in shown and "RewardBench" not in shown
    found = json.loads((folder / "out.json").read_text())
    assert found["sets"] == [{"name": "pairs", "pairs": 4, "labelled": 4, "left_out": {"no label": 1}}]
    assert [own["name"] for own in found["judges"]] == ["longer is better", "shorter"]
    longer = found["judges"][0]["sets"]["pairs"]
    assert (longer["n"], longer["debiased"]["right"], longer["debiased"]["wrong"]) == (4, 2, 1)
    assert [pair["id"] for pair in found["judges"][0]["pairs"]] == [f"pairs-{number}" for number in (1, 2, 3, 4)]


def test_subsets_sets_and_all_of_them_have_figures_and_a_folder_tells_what_it_leaves_out(evaluate, folder):
    rows = [{"subset": own, "prompt": f"q{i}", "chosen": "so long", "rejected": "so"} for i, own in enumerate("abab")]
    (folder / "sets/deep").mkdir(parents=True)
    (folder / "sets/deep/mine.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (folder / "sets/queries.json").write_text('[{"query": "Hi"}, {"query": "Ho"}]')
    (folder / "sets/readme.md").write_text("not data")
    (folder / "sets/.half-written.json").write_text("[{")
    code, shown, _ = evaluate("pairs.json", "sets", "--judge", "program:longer")
    assert code == 0
    names = [line.split("  ")[0] for line in shown.splitlines() if line and not line.startswith((" ", "─"))]
    assert [name for name in names if name in ("pairs", "deep/mine/a", "deep/mine/b", "deep/mine", "all sets")] == [
        "pairs", "deep/mine/a", "deep/mine/b", "deep/mine", "all sets",
    ]  # fmt: skip
    assert [row[0] for row in cells(shown, "longer")] == [
        "50 % (15-85)", "100 % (34-100)", "100 % (34-100)", "100 % (51-100)", "75 % (41-93)",
    ]  # fmt: skip
    assert "queries: 2 rows left out" in shown and "a row has the keys query, which is not a known form" in shown


def test_a_sample_says_so_and_is_the_sample_of_judge(evaluate, folder):
    code, shown, _ = evaluate("pairs.json", "--judge", "program:longer", "--limit", 2, "--seed", 1)
    assert code == 0 and "pairs: a sample of 2 of 4 labelled pairs" in shown
    (folder / "all.json").write_text(json.dumps([{**ROWS[0], "input": f"q{i}"} for i in range(20)]))
    for seed in (0, 1):
        (drawn,) = read_sets([folder / "all.json"], limit=5, seed=seed)
        assert drawn.pairs == load_pairs(folder / "all.json", limit=5, seed=seed).pairs


def test_a_reward_model_an_implicit_reward_and_a_chat_model_share_the_table_and_are_asked_once(
    evaluate, folder, tiny_chat_model
):
    from transformers import AutoModelForSequenceClassification

    tokenizer = build_tokenizer()
    for name, config in (("rewards", build_model(tokenizer, num_labels=1).config), ("policy", None)):
        shutil.copytree(tiny_chat_model, folder / name)
        if config:
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / name)
        else:
            build_model(tokenizer, seed=1).save_pretrained(folder / name)
    (folder / "policy/README.md").write_text(f"---\nbase_model: {tiny_chat_model}\n---\n")
    judges = ["--judge", "reward:rewards", "--judge", "implicit:policy", "--judge", tiny_chat_model]
    arguments = ["pairs.json", *judges, "--device", "cpu", "--json", "out.json"]
    code, shown, said = evaluate(*arguments)
    assert code == 0, said
    found = {own["name"]: own for own in json.loads((folder / "out.json").read_text())["judges"]}
    names = ["longer is better", "rewards (reward)", "policy against tiny (implicit, summed)", "tiny (log-probs)"]
    assert list(found) == names and len(cells(shown, names[2])) == 1
    implicit = found[names[2]]
    assert {row["outcome"] for row in implicit["pairs"]} == {"consistent"}
    assert implicit["sets"]["pairs"]["debiased"] | {"kappa": 0, "kappa_interval": 0} == (
        implicit["sets"]["pairs"]["strict"] | {"kappa": 0, "kappa_interval": 0}
    ), "which response stands first says nothing to it"
    files = {path.name: path.read_bytes() for path in (folder / "cache/judgements").iterdir()}
    assert len(files) == 4
    code, again, _ = evaluate(*arguments)
    assert (code, again) == (0, shown)
    assert {path.name: path.read_bytes() for path in (folder / "cache/judgements").iterdir()} == files
    code, shown, _ = evaluate(*arguments, "--per-token")
    assert code == 0 and "policy against tiny (implicit, per token)" in shown
    code, shown, _ = evaluate("pairs.json", "--judge", "implicit:policy", "--device", "cpu", program=["judge"])
    assert code == 0 and "policy against tiny" in shown


def test_a_pair_of_two_files_counts_once_in_all_sets(evaluate, folder):
    """The longer one is right in 2 of 4; the other file has one of these again, and one more in which it is wrong."""
    rows = [
        {"prompt": "q1", "chosen": "two words", "rejected": "one"},
        {"prompt": "new", "chosen": "one", "rejected": "two words"},
    ]
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, shown, _ = evaluate("pairs.json", "more.jsonl", "--judge", "program:longer", "--json", "out.json")
    assert code == 0 and "all sets: 1 pairs that came before, in this set or another, count once" in shown
    assert [row[0] for row in cells(shown, "longer")] == ["50 % (15-85)", "50 % (9-91)", "40 % (12-77)"]
    together = json.loads((folder / "out.json").read_text())["judges"][1]["all_sets"]
    assert (together["n"], together["debiased"]["right"], together["debiased"]["wrong"]) == (5, 2, 2)


def whole_bench() -> dict[str, tuple[int, int]]:
    """By RewardBench's subsets, in how many of its pairs the longer one is right, and how many pairs there are."""
    table = yaml.safe_load(BENCH.read_text())
    sizes = {name: table["pairs"].get(name, n) for own in table["sections"].values() for name, n in own.items()}
    return {name: (place * n // len(sizes), n) for place, (name, n) in enumerate(sizes.items())}


def test_rewardbench_is_taken_from_the_hub_with_its_columns_and_gives_sections_and_score(evaluate, hub):
    asked = whole_bench()
    rows = [
        {"prompt": f"{name} {i}", "chosen": "two words" if i < right else "one", "chosen_model": "m",
         "rejected": "one" if i < right else "two words", "rejected_model": "m", "subset": name, "id": i}
        for name, (right, n) in asked.items() for i in range(n)
    ]  # fmt: skip
    hub("allenai/reward-bench", filtered=rows)
    assert len(rows) == 2985
    code, shown, said = evaluate("allenai/reward-bench", "--split", "filtered", "--judge", "program:longer")
    assert code == 0, said
    assert "allenai/reward-bench/alpacaeval-easy" in shown
    names = list(asked)
    chat, chat_hard, safety, code_names = names[:5], names[5:11], names[11:16], names[17:]
    shares = [sum(asked[one][0] for one in own) / sum(asked[one][1] for one in own)
              for own in (chat, chat_hard, safety, code_names)]  # fmt: skip
    math_right, math_n = asked["math-prm"]
    expected = [*shares[:3], (math_right / math_n + shares[3]) / 2]  # math and code have the same weight
    sections = shown.partition("RewardBench")[2]
    assert [int(row[0].partition(" %")[0]) for row in cells(sections, "longer")[:4]] == [
        round(100 * share) for share in expected
    ]
    assert cells(sections, "longer")[4] == [f"{25 * sum(expected):.1f} %"]
    for state in ("all 5 subsets", "all 6 subsets", "all 7 subsets"):
        assert state in sections
    assert "not run" not in shown.lower()


def test_pairs_of_the_hub_are_judged_too_and_a_split_that_is_not_there_is_told(evaluate, hub):
    hub("org/name:main", test=[{"prompt": "q", "chosen": "two words", "rejected": "one"}])
    for program in (["judge"], ["evaluate", "reward"]):
        code, shown, _ = evaluate("org/name:main", "--split", "test", "--judge", "program:longer", program=program)
        assert code == 0 and "100 %" in shown
        code, _, said = evaluate("org/name:main", "--judge", "program:longer", program=program)
        assert code == 2 and 'Unknown split "train"' in said and "the split (--split)" in " ".join(said.split())
        code, _, said = evaluate("pairs.json", "--split", "test", "--judge", "program:longer", program=program)
        assert code == 2 and "--split test applies to hub data sets" in said


def test_what_can_not_be_evaluated_is_refused(evaluate, folder):
    code, _, said = evaluate("pairs.json")
    assert code == 2 and "no reward model or judge is named" in said
    code, _, said = evaluate("pairs.json", "--judge", "program:longer", "--per-token")
    assert code == 2 and "per_token" in said
    code, _, said = evaluate("pairs.json", "pairs.json", "--judge", "program:longer")
    assert code == 2 and "4 pairs have the id of another" in said
    (folder / "run").mkdir()
    (folder / "run/ledger.jsonl").write_text("")
    with pytest.raises(DataError, match="have no labels"):
        read_sets([folder / "run"])
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no file of a known format"):
        read_sets([folder / "empty"])
    (folder / "unlabelled.json").write_text(json.dumps([ROWS[-1]] * 3))
    with pytest.raises(DataError, match=r"no labelled pair is left: no label \(3 rows\)"):
        read_sets([folder / "unlabelled.json"])
    with pytest.raises(ConfigError, match="limit is 0"):
        read_sets([folder / "pairs.json"], limit=0)


# --- the published files


def count(text: str) -> int:
    """Words, in a way of its own: by Unicode's categories and names of characters."""
    plain = unicodedata.normalize("NFKC", text)
    spread = (f" {c} " if unicodedata.name(c, "").startswith(("CJK", "HIRAGANA", "KATAKANA")) else c for c in plain)
    return len("".join(c if unicodedata.category(c)[0] in "LN" else " " for c in "".join(spread)).split())


def words_longer(first: str, second: str) -> int:
    return (count(first) > count(second)) - (count(first) < count(second))


def rows_of(path: Path) -> list[dict]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()] if ".jsonl" in path.name else json.loads(text)


def last_answer(dialogue: str) -> str:
    """What the assistant says after the last human turn, in however many turns."""
    return dialogue.rpartition("\n\nHuman:")[2].partition("\n\nAssistant:")[2].replace("\n\nAssistant:", " ")


RIGHT = {
    "preferences/llmbar/Natural.json": lambda r: words_longer(r["output_1"], r["output_2"]) * (3 - 2 * r["label"]),
    "preferences/llmbar/Adversarial_Manual.json": lambda r: (
        words_longer(r["output_1"], r["output_2"]) * (3 - 2 * r["label"])
    ),
    "preferences/hh_rlhf/harmless-base_test.jsonl.gz": lambda r: words_longer(
        last_answer(r["chosen"]), last_answer(r["rejected"])
    ),
    "preferences/autoj/testdata_pairwise.jsonl.gz": lambda r: (
        None if r["label"] == 2 else words_longer(r["response 1"], r["response 2"]) * (1 - 2 * r["label"])
    ),
    "preferences/hhh_alignment/hhh_alignment.jsonl": lambda r: words_longer(r["chosen"], r["rejected"]),
    "preferences/dpo_demo/dpo_en_demo.json": lambda r: words_longer(r["chosen"]["value"], r["rejected"]["value"]),
    "alpaca_eval/FuseChat-Llama-3.1-8B-Instruct/weighted_alpaca_eval_gpt4_turbo/annotations.json.gz": lambda r: (
        None if r["preference"] in (0, 1.5, None)
        else words_longer(r["output_1"], r["output_2"]) * (1 if r["preference"] < 1.5 else -1)
    ),
}  # fmt: skip
"""What the longer response's verdict is by the raw row: 1 right, -1 wrong, 0 a tie; None: the label names no winner."""


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_the_published_sets_load_and_length_has_the_accuracy_that_their_raw_rows_give():
    files = [DATA / name for name in RIGHT]
    sets = read_sets(files)
    judgements = judge_pairs(length_baseline(), [pair for one in sets for pair in one.pairs])
    places = groups(sets)
    for path, verdict, one in zip(files, RIGHT.values(), sets, strict=True):
        rows = rows_of(path)
        verdicts = [value for value in map(verdict, rows) if value is not None]
        assert len(one.pairs) + sum(one.left_out.values()) == len(rows), "every row is accounted for"
        assert one.left_out.get("a tie by its label", 0) == len(rows) - len(verdicts) == sum(one.left_out.values())
        place = places[one.name]
        found = agreement([judgements[i] for i in place], kappas=False).debiased
        counts = (verdicts.count(1), verdicts.count(-1), verdicts.count(0))
        assert (found.right, found.wrong, found.none) == counts, one.name
    assert sets[3].left_out == {"a tie by its label": 373}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_the_partial_rewardbench_file_gives_one_partial_section_and_no_score(evaluate, folder):
    path = DATA / "preferences/rewardbench_partial/chat_hard_llmbar.jsonl"
    code, shown, _ = evaluate(path, "--judge", "program:shorter", "--json", "out.json")
    assert code == 0 and "partial: 5 of 6 subsets" in shown and shown.count("not run") >= 4
    assert "Not run: mt-bench-hard." in shown
    rows = rows_of(path)
    right = sum(count(row["chosen"]) < count(row["rejected"]) for row in rows)
    found = json.loads((folder / "out.json").read_text())["judges"][1]["rewardbench"]
    chat_hard = found["sections"][1]
    # every weight is the subset's own number of pairs, so the average is that of all pairs
    assert chat_hard["share"] == pytest.approx(right / len(rows)) and chat_hard["n"] == len(rows) == 419
    assert found["score"] is None and found["sections"][0]["state"] == "not run"


def test_groups_of_interleaved_subsets_hold_their_own_pairs(folder):
    rows = [{"subset": own, "prompt": f"q{i}", "chosen": "x", "rejected": "y"} for i, own in enumerate("abba")]
    (folder / "s.json").write_text(json.dumps(rows))
    found = groups(read_sets([folder / "s.json"]))
    assert {name: list(places) for name, places in found.items()} == {"s/a": [0, 3], "s/b": [1, 2], "s": [0, 1, 2, 3]}
