"""Which rows are trained on, from whatever they come in, and with which token ids."""

from __future__ import annotations

import copy
import dataclasses

import datasets
import pytest
import torch

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.errors import DataError, SelfsteerWarning
from selfsteer.logprobs.score_keys import ScoreKey, settings_key, weights_key
from selfsteer.policy.dataset import kept_contrasts
from selfsteer.records import PROMPTS, ROLES, Contrast, write_rows
from tests.policy.helpers import contrast, contrasts, plain_logp, policy, step_logs, trainer, with_scores


def test_rows_that_are_not_kept_are_left_out(tmp_path, tokenizer):
    rows = [contrast(0), contrast(1).drop("leak"), contrast(2)]
    run = trainer(tmp_path, tokenizer, rows)
    assert [row.id for row in run.train_dataset.contrasts] == ["q0", "q2"]
    assert run.examples == 2


@pytest.mark.parametrize("rows", [[], [contrast(0).drop("leak")]], ids=["empty", "all dropped"])
def test_without_a_kept_row_there_is_nothing_to_train_on(tmp_path, tokenizer, rows):
    with pytest.raises(DataError, match="no row is kept"):
        trainer(tmp_path, tokenizer, rows)


def test_only_a_response_that_stopped_by_itself_ends_in_the_end_token(tmp_path, tokenizer):
    run = trainer(tmp_path, tokenizer, contrasts(2))
    end = tokenizer.eos_token_id
    for row in run.train_dataset.contrasts:
        for role in ROLES:
            ids = row.response_ids(role)
            assert ids[:-1].count(end) == 0
            assert (ids[-1] == end) == (getattr(row, f"{role}_finish") == "stop")
    assert {row.negative_finish for row in run.train_dataset.contrasts} == {"stop", "length"}


def test_sampled_ids_are_trained_on_as_they_are(tokenizer):
    """Any text has several tokenisations: the one that was sampled is the one on-policy."""
    chat = Chat(tokenizer)
    text = contrast(1).positive_response
    sampled = [*(token for letter in text for token in tokenizer.encode(letter)), tokenizer.eos_token_id]
    assert sampled != chat.encode_response(text, ended=True)
    own = contrast(1, positive_token_ids=sampled, provenance={"tokenizer": chat.fingerprint})
    foreign = dataclasses.replace(own, provenance={"tokenizer": "another"})
    assert kept_contrasts([own], chat)[0].positive_token_ids == sampled
    assert kept_contrasts([foreign], chat)[0].positive_token_ids == chat.encode_response(text, ended=True)


def test_rows_without_ids_are_rendered_with_the_variables_of_the_chat_template(tmp_path, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ mood | default('') }}" + tokenizer.chat_template
    for options, start in (({}, ""), ({"chat_template_kwargs": {"mood": "calm"}}, "calm")):
        run = trainer(tmp_path, tokenizer, [contrast(0)], **options)
        text = tokenizer.decode(run.train_dataset.contrasts[0].prompt_ids("prompt"))
        assert text.startswith(f"{start}<|im_start|>")


@pytest.mark.parametrize("form", ["dicts", "datasets.Dataset", "parquet"])
def test_rows_come_as_contrasts_or_as_columns(tmp_path, tokenizer, form):
    model = policy(tokenizer)
    rows = [dataclasses.replace(row, provenance=row.provenance | {"seed": "1"}) for row in contrasts(2)]
    rows = [
        with_token_ids(row, Chat(tokenizer)) for row in [*with_scores(model, tokenizer, rows), contrast(2).drop("")]
    ]
    given = [dataclasses.asdict(row) for row in rows]
    if form == "datasets.Dataset":
        given = datasets.Dataset.from_list(given)
    elif form == "parquet":
        write_rows(tmp_path / "rows.parquet", Contrast, rows)
        given = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    direct, found = trainer(tmp_path, tokenizer, rows, model), trainer(tmp_path, tokenizer, given, model)
    assert found.train_dataset.contrasts == direct.train_dataset.contrasts
    assert torch.equal(found.train_dataset.reference, direct.train_dataset.reference)


def test_a_column_that_is_missing_is_named(tmp_path, tokenizer):
    row = dataclasses.asdict(contrast(0))
    del row["original_response"]
    with pytest.raises(DataError, match="original_response"):
        trainer(tmp_path, tokenizer, [row])


@pytest.mark.parametrize("stored", [False, True], ids=["scored here", "stored scores"])
def test_responses_are_cut_at_max_length_in_policy_and_reference_alike(tmp_path, tokenizer, stored):
    model, row = policy(tokenizer), with_token_ids(contrast(0), Chat(tokenizer))
    limit = row.longest_prompt + 2
    scores: dict[str, dict[str, float]] = {}
    expected = []
    for cell in trainer(tmp_path, tokenizer, [row], model).cells:
        prompt = row.prompt_ids(cell.prompt)
        ids = row.response_ids(cell.role)[:2]
        expected.append(plain_logp(model, prompt, ids).item())
        scores.setdefault(f"{cell.role}_response", {})[cell.prompt] = expected[-1] / len(ids)
    if stored:
        settings = settings_key(max_length=limit, dtype="float32")
        row = ScoreKey.from_row(row, weights_key(model), settings).put(dataclasses.replace(row, scores=scores))
    run = trainer(tmp_path, tokenizer, [row], model, max_length=limit)
    assert run.train_dataset.reference[0].tolist() == pytest.approx(expected, rel=1e-5)
    run.train()
    assert step_logs(run)[0]["rewards/base/margin"] == pytest.approx(0, abs=1e-4)


def test_rows_whose_prompt_leaves_no_room_are_left_out_with_one_warning(tmp_path, tokenizer):
    user = {"role": "user", "content": "river " * 30}
    long = {name: [*getattr(contrast(1), name)[:-1], user] for name in PROMPTS}
    rows = [contrast(0), contrast(1, **long), contrast(2), contrast(3, **long)]
    limit = len(Chat(tokenizer).encode(long["prompt"]))
    with pytest.warns(SelfsteerWarning, match=f"2 of 4 rows .* max_length {limit} .* row 'q1'") as caught:
        run = trainer(tmp_path, tokenizer, rows, max_length=limit)
    assert sum(issubclass(warning.category, SelfsteerWarning) for warning in caught) == 1
    assert [row.id for row in run.train_dataset.contrasts] == ["q0", "q2"]
    run.train()
    with pytest.raises(DataError, match="2 of 2 rows have a prompt that leaves no room") as refused:
        trainer(tmp_path, tokenizer, rows[1::2], max_length=limit)
    assert f"above {limit}" in str(refused.value)


@pytest.mark.parametrize("steers", [True, False])
def test_all_prompts_have_to_leave_room_whichever_views_are_trained_on(tmp_path, tokenizer, steers):
    system = {"role": "system", "content": "river " * 30}
    row = with_token_ids(contrast(0, positive_prompt=[system, *contrast(0).prompt]), Chat(tokenizer))
    limit = row.longest_prompt
    with pytest.raises(DataError, match="leaves no room"):
        trainer(tmp_path, tokenizer, [row], max_length=limit, use_steering=steers)
    assert trainer(tmp_path, tokenizer, [row], max_length=limit + 1, use_steering=steers).examples == 1
