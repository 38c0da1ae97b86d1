"""Stored scores are the reference only with the key of this start; what becomes of all others."""

from __future__ import annotations

import copy
import dataclasses
import re

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.errors import ConfigError, DataError, SelfsteerWarning
from selfsteer.logprobs import ALL_CELLS
from selfsteer.logprobs.score_keys import ScoreKey
from selfsteer.policy import SSOTrainer, reference
from selfsteer.records import Contrast, write_rows
from selfsteer.stages.scorer import Scorer
from tests.policy.helpers import contrasts, plain_logp, policy, step_logs, trainer, with_scores

LORA = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture
def calls(monkeypatch):
    """The rows that the trainer scores."""
    scored: list[str] = []
    score = SSOTrainer._score

    def counting(run, rows):
        scored.extend(row.id for row in rows)
        return score(run, rows)

    monkeypatch.setattr(SSOTrainer, "_score", counting)
    return scored


def sft_model(tokenizer, seed=3):
    """A base with an adapter that has been trained: far from its base."""
    torch.manual_seed(seed)
    return get_peft_model(policy(tokenizer), LoraConfig(**LORA, init_lora_weights=False))


@torch.no_grad()
def reference_of(model, cells, rows):
    """(B, C) of rows with token ids, by plain transformers."""
    sums = [[plain_logp(model, row.prompt_ids(c.prompt), row.response_ids(c.role)) for c in cells] for row in rows]
    return torch.tensor(sums)


def scored_by(model, tokenizer, rows, *, autocast=False, max_length=2048):
    scorer = Scorer(model, Chat(tokenizer), autocast=autocast, max_length=max_length)
    return scorer.score(rows)


def other_weights(row, tokenizer):
    return with_scores(policy(tokenizer, seed=1), tokenizer, [row])[0]


def other_token(row, tokenizer):
    (scored,) = with_scores(policy(tokenizer), tokenizer, [row])
    return dataclasses.replace(scored, negative_token_ids=[7, *scored.negative_token_ids[1:]])


def unchanged(row, tokenizer):
    return with_scores(policy(tokenizer), tokenizer, [row])[0]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (other_weights, {}, ["they are from weights [0-9a-f]{8}, and training starts from weights [0-9a-f]{8}"]),
        (
            unchanged,
            {"max_length": 300},
            ["max_length 2048 [^,]*, precision float32", "max_length 300 "],
        ),
        (unchanged, {"max_length": None}, ["max_length None"]),
        (unchanged, {"bf16": True}, ["prompt, precision float32", "prompt, precision bfloat16 autocast"]),
        (other_token, {}, ["token ids are not those that were scored"]),
    ],
    ids=["weights", "max_length", "no max_length", "precision", "token"],
)
def test_a_key_that_differs_is_refused_with_what_differs_and_what_to_do(tmp_path, tokenizer, change, options, words):
    good = unchanged(contrasts(1)[0], tokenizer) if change is not unchanged else None
    bad = change(contrasts(2)[1], tokenizer)
    rows = [row for row in (good, bad) if row]
    for sets in ({"rows": rows}, {"rows": contrasts(2), "eval_dataset": {"held out": rows}}):
        with pytest.raises(DataError) as caught:
            trainer(tmp_path, tokenizer, model=policy(tokenizer), **sets, **options)
        first, where, do = str(caught.value).split("\n")
        assert all(re.search(word, first) for word in words)
        assert first.count(" and training ") == (change is not other_token)
        assert "row 'q1'" in where
        assert "drop the column scores" in do
    run = trainer(tmp_path, tokenizer, [dataclasses.replace(row, scores=None) for row in rows], **options)
    run.train()
    assert step_logs(run)[0]["rewards/base/margin"] == pytest.approx(0, abs=2e-3)


def test_scores_without_a_key_are_left_aside_with_one_warning(tmp_path, tokenizer, calls):
    model = policy(tokenizer)
    own, *foreign = contrasts(4)
    rows = [*with_scores(model, tokenizer, [own]), *with_scores(policy(tokenizer, 1), tokenizer, foreign, keyed=False)]
    with pytest.warns(SelfsteerWarning, match="without the key of their weights") as caught:
        run = trainer(tmp_path, tokenizer, rows, model)
    assert [str(warning.message).count("3 in all, the first in row 'q1'") for warning in caught] == [1]
    assert calls == ["q1", "q2", "q3"]
    expected = reference_of(model, run.cells, run.train_dataset.contrasts)
    assert run.train_dataset.reference == pytest.approx(expected, abs=1e-4)
    run.train()


def test_without_stored_scores_no_weight_is_hashed(tmp_path, tokenizer, monkeypatch):
    model = policy(tokenizer)
    rows = [dataclasses.replace(row, scores=None) for row in with_scores(model, tokenizer, contrasts(2))]
    foreign = with_scores(model, tokenizer, contrasts(2), keyed=False)
    monkeypatch.setattr(reference, "weights_key", lambda model: pytest.fail("hashed"))
    run = trainer(tmp_path, tokenizer, rows, model, eval_dataset=contrasts(3)[2:])
    run.train()
    with pytest.warns(SelfsteerWarning):
        trainer(tmp_path, tokenizer, foreign, policy(tokenizer))


def test_where_the_start_was_never_named_no_score_is_known_to_be_its_own(tmp_path, tokenizer):
    """Nothing asked for the hash while the start was there."""
    scored = with_scores(policy(tokenizer), tokenizer, contrasts(2))
    run = trainer(tmp_path, tokenizer, contrasts(2))
    run.train()
    with pytest.raises(DataError, match="moved the weights") as caught:
        run.evaluate(scored)
    assert str(caught.value).endswith("give them as eval_dataset when the trainer is made")


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("start", ["plain", "fresh adapter", "fresh adapter put on before", "adapter brought along"])
def test_the_scorer_of_a_run_and_the_trainer_name_the_same_start(tmp_path, tokenizer, calls, start, autocast):
    brings = start == "adapter brought along"
    model = sft_model(tokenizer) if brings else policy(tokenizer)
    rows = scored_by(model, tokenizer, contrasts(3), autocast=autocast)
    if start == "fresh adapter put on before":
        model = get_peft_model(model, LoraConfig(**LORA))
    lora = None if start == "plain" else LoraConfig(**LORA)
    run = trainer(tmp_path, tokenizer, rows, model, peft_config=lora, bf16=autocast)
    run.train()
    assert not calls
    assert ScoreKey.stored(rows[0]).settings.endswith("bfloat16 autocast" if autocast else "float32")


@pytest.mark.parametrize("objective", ["sso", "base", "generator"])
def test_responses_that_are_cut_have_the_tokens_in_training_that_were_scored(tmp_path, tokenizer, calls, objective):
    rows = [with_token_ids(row, Chat(tokenizer)) for row in contrasts(3)]
    limit = max(row.longest_prompt for row in rows) + 2
    scored = scored_by(policy(tokenizer), tokenizer, rows, max_length=limit)
    settings = {"max_length": limit, "objective": objective} | ({"base_loss": "dpo"} if objective != "sso" else {})
    run = trainer(tmp_path, tokenizer, scored, **settings)
    assert run.train_dataset.reference == pytest.approx(torch.stack(run._score(rows)), abs=1e-5)
    calls.clear()
    run.train()
    assert not calls
    assert all(value == pytest.approx(0, abs=1e-4) for name, value in step_logs(run)[0].items() if "/margin" in name)


def test_weights_in_bfloat16_have_a_key_too(tmp_path, tokenizer, calls):
    rows = scored_by(policy(tokenizer).bfloat16(), tokenizer, contrasts(2))
    assert ScoreKey.stored(rows[0]).settings == "max_length 2048 with the longest prompt, precision bfloat16"
    lora = LoraConfig(**LORA)
    run = trainer(tmp_path, tokenizer, rows, policy(tokenizer).bfloat16(), peft_config=lora, check_start=False)
    run.train()
    assert not calls
    with pytest.raises(DataError, match="precision float32"):
        trainer(tmp_path, tokenizer, rows, policy(tokenizer))


def test_the_scorer_hashes_its_model_once(tokenizer, monkeypatch):
    from selfsteer.stages import scorer as scoring

    hashed = []
    name = scoring.weights_key
    monkeypatch.setattr(scoring, "weights_key", lambda model: hashed.append(model) or name(model))
    rows = scored_by(policy(tokenizer), tokenizer, contrasts(3))
    assert len(hashed) == 1
    assert len({ScoreKey.stored(row).weights for row in rows}) == 1
    assert len({ScoreKey.stored(row).tokens for row in rows}) == 3


def test_rows_of_a_run_come_through_parquet_and_datasets_with_their_key(tmp_path, tokenizer, calls):
    """As in the README: provenance is a JSON string there."""
    write_rows(tmp_path / "rows.parquet", Contrast, scored_by(policy(tokenizer), tokenizer, contrasts(3)))
    files = {"path": "parquet", "data_files": str(tmp_path / "*.parquet"), "cache_dir": str(tmp_path / "cache")}
    rows = datasets.load_dataset(**files, split="train")
    trainer(tmp_path, tokenizer, rows).train()
    assert not calls
    with pytest.raises(DataError, match="max_length 1024"):
        trainer(tmp_path, tokenizer, rows, max_length=1024)
    trainer(tmp_path, tokenizer, rows.remove_columns("scores"), max_length=1024)
    assert calls == ["q0", "q1", "q2"]


# ------------------------------------------------------------------------------------------ an SFT adapter under it
@pytest.mark.parametrize("stored", [False, True], ids=["scored here", "stored scores"])
@pytest.mark.parametrize("kept", ["merged", "merged under a fresh adapter", "active"])
def test_the_reference_is_the_sft_model_and_never_its_base(tmp_path, tokenizer, kept, stored):
    sft = sft_model(tokenizer)
    start = sft if kept == "active" else copy.deepcopy(sft).merge_and_unload().requires_grad_(True)
    rows = scored_by(start, tokenizer, contrasts(3)) if stored else contrasts(3)
    lora = LoraConfig(**LORA) if kept == "merged under a fresh adapter" else None
    run = trainer(tmp_path, tokenizer, rows, start, peft_config=lora, num_train_epochs=2)
    found, own = run.train_dataset.reference.clone(), run.train_dataset.contrasts
    assert found == pytest.approx(reference_of(sft, run.cells, own), abs=1e-3)
    assert (found - reference_of(policy(tokenizer), run.cells, own)).abs().min() > 0.01
    run.train()
    assert step_logs(run)[0]["rewards/base/margin"] == pytest.approx(0, abs=1e-4)
    assert torch.equal(run.train_dataset.reference, found)


@pytest.mark.parametrize("trained", ["merged", "active"])
def test_scores_of_the_base_are_refused_where_an_sft_adapter_is_on_it(tmp_path, tokenizer, trained):
    of_base = scored_by(policy(tokenizer), tokenizer, contrasts(2))
    start = sft_model(tokenizer) if trained == "active" else sft_model(tokenizer).merge_and_unload()
    with pytest.raises(DataError, match="training starts from weights"):
        trainer(tmp_path, tokenizer, of_base, start, peft_config=LoraConfig(**LORA))


def test_a_model_whose_weights_are_all_frozen_is_refused_in_words(tmp_path, tokenizer):
    merged = sft_model(tokenizer).merge_and_unload()
    with pytest.raises(ConfigError, match="all are frozen") as error:
        trainer(tmp_path, tokenizer, contrasts(2), merged)
    assert "peft_config" in str(error.value)


# ------------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_sets_may_come_as_a_dictionary(tmp_path, tokenizer, calls):
    model = policy(tokenizer)
    sets = {"scored": with_scores(model, tokenizer, contrasts(2)), "plain": contrasts(6)[4:]}
    options = {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 2}
    run = trainer(tmp_path, tokenizer, contrasts(2), model, eval_dataset=sets, **options)
    assert calls == ["q0", "q1", "q4", "q5"]
    before = run.evaluate()
    assert [before[f"eval_{name}_loss/base"] for name in sets] == pytest.approx([6.25, 6.25], rel=1e-3)
    run.train()
    after = run.evaluate()
    assert after["eval_scored_rewards/base/margin"] > 0
    assert after["eval_plain_loss/base"] != after["eval_scored_loss/base"] != pytest.approx(6.25, rel=1e-3)
    assert len(calls) == 4


@pytest.mark.parametrize("ask", ["evaluate", "predict"])
def test_new_rows_are_scored_with_the_start_while_it_is_there(tmp_path, tokenizer, calls, ask):
    model = policy(tokenizer)
    run = trainer(tmp_path, tokenizer, contrasts(2), model, num_train_epochs=3)
    calls.clear()

    def figures(rows):
        found = run.predict(rows, metric_key_prefix="new") if ask == "predict" else run.evaluate(rows)
        metrics, prefix = (found.metrics, "new") if ask == "predict" else (found, "eval")
        return {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}

    with_key = with_scores(model, tokenizer, contrasts(4)[2:])
    assert figures(with_key)["loss/base"] == pytest.approx(6.25, rel=1e-3)
    assert calls == []
    assert figures(contrasts(6)[4:])["loss/base"] == pytest.approx(6.25, rel=1e-3)
    assert calls == ["q4", "q5"]
    with pytest.warns(SelfsteerWarning, match=r"of another start .*the first in row 'q2'"):
        other = figures(with_scores(policy(tokenizer, 1), tokenizer, contrasts(4)[2:]))
    assert other["loss/base"] == pytest.approx(6.25, rel=1e-3)
    assert calls == ["q4", "q5", "q2", "q3"]

    run.train()
    moved = figures(with_key)
    assert moved["rewards/base/chosen"] != pytest.approx(0, abs=1e-4)
    other_rows = with_scores(policy(tokenizer, 1), tokenizer, contrasts(4)[2:])
    for rows in (contrasts(6)[4:], [*with_key, *contrasts(6)[4:]], other_rows):
        with pytest.raises(DataError, match="training has moved the weights") as caught:
            figures(rows)
        assert "eval_dataset" in str(caught.value)
    assert len(calls) == 4


def test_a_dictionary_of_new_rows_is_evaluated_set_by_set(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2))
    found = run.evaluate({"a": contrasts(3)[2:], "b": contrasts(5)[3:]})
    assert [found[f"eval_{name}_loss/base"] for name in "ab"] == pytest.approx([6.25, 6.25], rel=1e-3)


def test_a_prediction_leaves_no_figures_behind(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2), eval_dataset=contrasts(4)[2:])
    alone = run.evaluate()
    found = run.predict(contrasts(6)[4:])
    assert found.predictions is None
    assert found.metrics["test_mean_logps/base/chosen"] != alone["eval_mean_logps/base/chosen"]
    assert run.evaluate()["eval_mean_logps/base/chosen"] == alone["eval_mean_logps/base/chosen"]


def test_the_scorer_gives_every_cell_and_partial_scores_have_a_key_too(tokenizer):
    scorer = Scorer(policy(tokenizer), Chat(tokenizer), autocast=False, max_length=2048)
    row = contrasts(1)[0]
    all_cells, two_cells = scorer.score([row])[0], scorer.score([row], ALL_CELLS[:2])[0]
    assert ScoreKey.stored(all_cells) == ScoreKey.stored(two_cells)
