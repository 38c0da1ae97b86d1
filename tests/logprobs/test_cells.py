"""Cells and views: every number belongs to its response, its prompt and its contrast, however it was computed."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import datasets
import pytest
import torch

from selfsteer.chat import Chat
from selfsteer.contrast import with_token_ids
from selfsteer.errors import DataError
from selfsteer.logprobs import ALL_CELLS, Cell, PromptRow, pair_views, score_cells, score_views, view_cells
from selfsteer.records import PROMPTS, ROLES, Contrast
from selfsteer.views import SSO_VIEWS, View
from tests.conftest import build_model, build_tokenizer
from tests.logprobs.tiny import separate, tiny_model

TOKENS = {
    "prompt_token_ids": [5, 6, 7],
    "positive_prompt_token_ids": [8, 9, 10, 11, 6, 7],
    "negative_prompt_token_ids": [12, 13, 14, 6, 7],
    "positive_token_ids": [20, 21, 22, 23, 2],
    "negative_token_ids": [30, 31],
    "original_token_ids": [40, 41, 42, 2],
}


def contrast(shift: int = 0, **changes) -> Contrast:
    """A row of hand-written ids; all its nine cells differ, and rows of another ``shift`` differ from it."""
    prompt = [{"role": "user", "content": "How?"}]
    steered = [[{"role": "system", "content": text}, *prompt] for text in ("Well.", "Badly.")]
    row = Contrast(
        f"q{shift}", prompt, "train", ["Accuracy"], "Well.", "Badly.", *steered, "yes", "no", "so",
        "stop", "length", "stop",
        **{name: [token if token == 2 else token + shift for token in ids] for name, ids in TOKENS.items()},
    )  # fmt: skip
    return dataclasses.replace(row, **changes)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", torch.float32).requires_grad_(False)


def cell_by_cell(model, row, cells):
    rows = [PromptRow(row.prompt_ids(cell.prompt), [row.response_ids(cell.role)]) for cell in cells]
    return torch.cat(separate(model, rows))


CONTRASTS = [contrast(0), contrast(7, positive_token_ids=[50, 2]), contrast(3)]


@pytest.mark.parametrize("cells", [
    ALL_CELLS,
    ALL_CELLS[::-1],
    [Cell("negative", "prompt")],
    [Cell("original", "negative_prompt"), Cell("positive", "prompt"), Cell("positive", "negative_prompt")],
], ids=["all", "backwards", "one", "prompts taking turns"])  # fmt: skip
def test_scores_stand_in_the_order_of_the_contrasts_and_of_the_cells_asked_for(model, cells):
    sums, counts = score_cells(model, CONTRASTS, cells)
    expected = torch.stack([cell_by_cell(model, row, cells) for row in CONTRASTS])
    assert sums.double() == pytest.approx(expected, abs=1e-5)
    assert counts.tolist() == [[len(row.response_ids(cell.role)) for cell in cells] for row in CONTRASTS]
    values = sorted(expected.flatten().tolist())
    assert min(b - a for a, b in pairwise(values)) > 1e-4  # or a mix-up would go unseen


@pytest.mark.parametrize("budget", [1, 20, 45, 10_000])
def test_scores_depend_neither_on_the_token_budget_nor_on_the_neighbours(model, budget):
    together, _ = score_cells(model, CONTRASTS, ALL_CELLS)
    calls = []
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    found, _ = score_cells(model, CONTRASTS, ALL_CELLS, token_budget=budget)
    handle.remove()
    assert found == pytest.approx(together, abs=1e-5)
    longest_row = 6 + 4 + 1 + 3  # a row longer than the budget goes alone
    assert max(calls) <= max(budget, longest_row)
    assert (len(calls) == 1) == (budget == 10_000)
    alone = torch.cat([score_cells(model, [row], ALL_CELLS)[0] for row in CONTRASTS])
    assert alone == pytest.approx(together, abs=1e-5)


def test_the_head_runs_only_where_a_response_token_is_predicted(model):
    score_cells(model, CONTRASTS[:1], ALL_CELLS)  # the first time, a few tokens more show how the head is used
    widths = []
    handle = model.lm_head.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[-2]))
    _, counts = score_cells(model, CONTRASTS, ALL_CELLS)
    handle.remove()
    assert widths == [counts.sum().item()]


def test_gradients_flow_and_do_not_depend_on_the_token_budget():
    model, found = tiny_model("llama", torch.float32), []
    for budget in (1, 10_000):
        model.zero_grad()
        sums, _ = score_cells(model, CONTRASTS, ALL_CELLS, token_budget=budget)
        (sums * torch.linspace(0.5, 1.5, sums.numel()).view_as(sums)).sum().backward()
        found.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert found[0].abs().max() > 0
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5 * found[1].abs().max().item())


def test_max_length_cuts_a_response_at_the_same_place_under_all_prompts_and_nothing_else(model):
    row, limit = contrast(), 9  # the longest prompt has 6 tokens
    sums, counts = score_cells(model, [row, contrast(3)], ALL_CELLS, max_length=limit)
    kept = [row.response_ids(cell.role)[:3] for cell in ALL_CELLS]
    expected = separate(
        model, [PromptRow(row.prompt_ids(cell.prompt), [ids]) for cell, ids in zip(ALL_CELLS, kept, strict=True)]
    )
    assert sums[0].double() == pytest.approx(torch.cat(expected), abs=1e-5)
    assert counts[0].tolist() == [len(ids) for ids in kept] == [3, 3, 3, 2, 2, 2, 3, 3, 3]
    unlimited, lengths = score_cells(model, [row], ALL_CELLS)
    whole = counts[0] == lengths[0]
    assert sums[0][whole] == pytest.approx(unlimited[0][whole], abs=1e-5)


@pytest.mark.parametrize("views", [[View.BASE], [View.NEGATIVE], list(View)], ids=len)
def test_a_view_alone_has_the_tokens_that_it_has_beside_the_others(model, views):
    """So the scores of all cells, stored, are the reference of a training that reads some of them."""
    cells = view_cells(views)
    together, lengths = score_cells(model, CONTRASTS, ALL_CELLS, max_length=9)
    alone, counts = score_cells(model, CONTRASTS, cells, max_length=9)
    places = [ALL_CELLS.index(cell) for cell in cells]
    assert counts.tolist() == lengths[:, places].tolist()
    assert alone == pytest.approx(together[:, places], abs=1e-5)


@pytest.mark.parametrize("limit", [5, 6])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_that_leaves_no_room_raises_whichever_cell_is_asked_for(model, limit, prompt):
    with pytest.raises(DataError, match=r"longest prompt of row 'q3' has 6 tokens") as caught:
        score_cells(model, [contrast(3)], [Cell("positive", prompt)], max_length=limit)
    assert "max_length above 6" in str(caught.value)


def test_an_empty_response_raises_and_its_row_is_named(model):
    with pytest.raises(DataError, match="row 'q0' has an empty response"):
        score_cells(model, [contrast(original_token_ids=[])], ALL_CELLS)


def test_a_row_without_token_ids_raises_and_is_named(model):
    with pytest.raises(DataError, match="row 'q0' has no negative_token_ids"):
        score_cells(model, [contrast(negative_token_ids=None)], ALL_CELLS)


def test_bfloat16_logits_are_summed_in_float32():
    sums, _ = score_cells(tiny_model("llama", torch.bfloat16), CONTRASTS, ALL_CELLS)
    assert sums.dtype == torch.float32


PAIRS = {
    View.BASE: (Cell("positive", "prompt"), Cell("negative", "prompt")),
    View.POSITIVE: (Cell("positive", "positive_prompt"), Cell("negative", "positive_prompt")),
    View.NEGATIVE: (Cell("original", "negative_prompt"), Cell("positive", "negative_prompt")),
    View.NEGATIVE_STRICT: (Cell("negative", "negative_prompt"), Cell("positive", "negative_prompt")),
}


def test_each_view_takes_chosen_and_rejected_from_its_own_response_and_prompt():
    assert view_cells(SSO_VIEWS) == [cell for view in SSO_VIEWS for cell in PAIRS[view]]
    assert len(view_cells(View)) == 7  # two views share y+ under x-
    sums = torch.arange(18.0).view(2, 9)
    counts = 10 + torch.arange(18).view(2, 9)
    for view, pair in pair_views(sums, counts, ALL_CELLS, list(View)).items():
        chosen, rejected = (ALL_CELLS.index(cell) for cell in PAIRS[view])
        assert pair.chosen.tolist() == [chosen, 9 + chosen]
        assert pair.rejected.tolist() == [rejected, 9 + rejected]
        assert pair.chosen_lengths.tolist() == [10 + chosen, 19 + chosen]
        assert pair.rejected_lengths.tolist() == [10 + rejected, 19 + rejected]


def test_score_views_scores_each_view_with_its_own_ids():
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).requires_grad_(False)
    model.lm_head.weight.normal_(std=0.5)
    own = {"tokenizer": Chat(tokenizer).fingerprint}
    rows = [dataclasses.replace(row, provenance=own) for row in CONTRASTS]
    for processing_class in (tokenizer, Chat(tokenizer)):
        found = score_views(model, processing_class, rows, views=list(View), token_budget=30)
        for view, cells in PAIRS.items():
            chosen, rejected = torch.stack([cell_by_cell(model, row, cells) for row in rows]).unbind(1)
            assert found[view].chosen.double() == pytest.approx(chosen, abs=1e-4)
            assert found[view].rejected.double() == pytest.approx(rejected, abs=1e-4)
            assert found[view].chosen_lengths.tolist() == [len(row.response_ids(cells[0].role)) for row in rows]
    assert list(score_views(model, tokenizer, rows)) == list(SSO_VIEWS)


@pytest.mark.parametrize("form", [list, datasets.Dataset.from_list])
def test_score_views_takes_rows_as_columns(form):
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).requires_grad_(False)
    own = {"tokenizer": Chat(tokenizer).fingerprint}
    rows = [dataclasses.replace(row, provenance=own, kept=place > 0) for place, row in enumerate(CONTRASTS)]
    given = form([dataclasses.asdict(row) | {"note": "another column"} for row in rows])
    expected, found = score_views(model, tokenizer, rows), score_views(model, tokenizer, given)
    for view in SSO_VIEWS:
        assert torch.equal(found[view].chosen, expected[view].chosen)
        assert torch.equal(found[view].rejected_lengths, expected[view].rejected_lengths)
    with pytest.raises(DataError, match="lacks the columns positive_response"):
        score_views(model, tokenizer, [{k: v for k, v in dict(given[0]).items() if k != "positive_response"}])


def test_score_views_tokenises_rows_of_another_tokenizer():
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).requires_grad_(False)
    bare = contrast(**dict.fromkeys([f"{name}_token_ids" for name in (*PROMPTS, *ROLES)]))
    ids = with_token_ids(bare, Chat(tokenizer))
    found = score_views(model, tokenizer, [contrast()])[View.NEGATIVE]  # its ids are not this tokenizer's
    expected = cell_by_cell(model, ids, PAIRS[View.NEGATIVE])
    assert torch.cat([found.chosen, found.rejected]).double() == pytest.approx(expected, abs=1e-4)
