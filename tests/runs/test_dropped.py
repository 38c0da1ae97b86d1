"""Rows that a chat template refuses: left out by name at each stage, the others go on."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import assemble
from selfsteer.errors import DataError
from selfsteer.loop.run import open_stages
from selfsteer.principles import load_set, pair_for
from selfsteer.records import ROLES, Contrast, Query, Response
from selfsteer.runs.progress import Display
from selfsteer.stages.principle_strategies import WrittenPrinciples, refusal, steered
from selfsteer.stages.principles import principles_stage
from selfsteer.stages.queries import queries_stage
from selfsteer.stages.responses import planned, responses_stage
from selfsteer.stages.scores import fitting, scores_stage
from tests.chat_templates import tokenizer_of, user
from tests.run_helpers import Answering

TWICE = [*user("Hi."), *user("Name two lakes.")]
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}<|im_start|>assistant\\n"
)


@pytest.fixture(scope="module")
def alternating(tiny_chat_model, tmp_path_factory):
    """A model whose template takes no two user turns in a row, and no system message."""
    folder = tmp_path_factory.mktemp("models") / "alternating"
    shutil.copytree(tiny_chat_model, folder)
    (folder / "chat_template.jinja").write_text(ALTERNATING)
    return folder


def stages_of(tmp_path, model, prompts, **queries):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{i}", "prompt": one}) + "\n" for i, one in enumerate(prompts)))
    settings = {"queries": {"source": str(path), "heldout": 0, **queries}, "model": {"name": str(model)}}
    recipe = Recipe.model_validate(settings | {"generation": {"max_new_tokens": 4}, "principles": {"set": "brief"}})
    return open_stages(recipe, tmp_path / "run", Display(quiet=True))


def test_a_refused_query_is_left_out_before_anything_is_sampled(tmp_path, alternating):
    stages = stages_of(tmp_path, alternating, ["Name a lake.", TWICE, "Name a tree."])
    policy = stages.models.initial_policy(print)
    principles = principles_stage(stages, queries_stage(stages.recipe, stages.store), "train", 1, policy)
    assert [drop["where"] for drop in principles.info["dropped"]] == ["q1"]
    assert "roles must alternate" in principles.info["dropped"][0]["reason"]
    responses = responses_stage(stages, principles, "train", 1, policy)
    rows = stages.store.read(scores_stage(stages, principles, responses, "train", 1, policy), Contrast)
    assert {row.id for row in rows} == {"q0", "q2"} and responses.info["left_out"] == 0


@pytest.mark.parametrize(("prompts", "most"), [(["a", TWICE, [*TWICE, *TWICE]], 0.5), ([TWICE], 1.0)])
def test_too_many_refused_queries_stop_the_run_with_the_reason(tmp_path, alternating, prompts, most):
    stages = stages_of(tmp_path, alternating, prompts, max_left_out=most)
    with pytest.raises(DataError, match="the chat template refuses a prompt with the roles user, user"):
        principles_stage(
            stages, queries_stage(stages.recipe, stages.store), "train", 1, stages.models.initial_policy(print)
        )


class Rendering(Answering):
    """A backend that measures prompts by its template, as those with weights do."""

    def length(self, prompt):
        assert self.chat is not None
        return len(self.chat.encode(prompt))


def test_each_step_that_renders_leaves_a_refused_row_out():
    gemma = Chat(tokenizer_of("gemma"))
    fine, odd = Query("fine", user("Hi")), Query("odd", TWICE)
    assert refusal(fine, [gemma]) == "" and "refuses" in refusal(odd, [gemma])
    row = steered(fine, WrittenPrinciples(pair_for(load_set("brief"), ["Brevity"]), "all", "fixed"), [gemma])
    both = [row, dataclasses.replace(row, id="odd", prompt=TWICE)]
    asked, reasons = planned(both, Rendering(gemma, []), Recipe())
    assert {one.id for one in asked} == {"fine"} and list(reasons) == ["odd"]
    answers = {role: Response("", role, "So.", "stop") for role in ROLES}
    fits, left_out = fitting([assemble(one, answers, round=1, provenance={}) for one in both], gemma, Recipe())
    assert [one.id for one in fits] == ["fine"] and [one.where for one in left_out] == ["odd"]
    assert refusal(odd, []) == "" and refusal(Query("system", user("Hi", "Be kind.")), [gemma]) == ""
