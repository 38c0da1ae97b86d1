"""Local models under lm-eval's tasks: chat templates of several kinds, and lm-eval's own model class beside ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfsteer.config import LocalModelSettings
from selfsteer.errors import FetchError
from selfsteer.evaluation.benchmarks import mmlu
from selfsteer.evaluation.benchmarks.answers import AnswerStore
from selfsteer.evaluation.benchmarks.evaluated_model import EvaluatedModel, ModelOptions
from selfsteer.evaluation.benchmarks.ifeval import IFEVAL
from selfsteer.evaluation.benchmarks.mmlu import MMLU
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext
from selfsteer.models import resolve
from tests.chat_templates import tokenizer_of
from tests.conftest import build_model

DATA = Path(__file__).parents[4] / "shared" / "data"
ABOUT = "The following are multiple choice questions (with answers) about abstract algebra."


@pytest.fixture(autouse=True)
def files():
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    return {"archive": DATA / "mmlu/mmlu.zip"}, {"prompts": DATA / "ifeval/input_data.jsonl"}


@pytest.mark.parametrize("family", ["gemma", "mistral", "llama3", "deepseek-r1", "qwen3"])
def test_the_description_reaches_every_kind_of_template(family, files, tmp_path, monkeypatch):
    """Without a system role it is before the first question; one BOS at most; a thought is closed before the letter."""
    from selfsteer import logprobs

    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(tmp_path / family)
    build_model(tokenizer, max_position_embeddings=16_384).save_pretrained(tmp_path / family)
    scored, score = [], logprobs.score_responses
    recording = lambda model, rows, **how: scored.extend(rows) or score(model, rows, **how)  # noqa: E731
    monkeypatch.setattr(logprobs, "score_responses", recording)
    model = EvaluatedModel(str(tmp_path / family), ModelOptions(settings=LocalModelSettings(device="cpu")))
    store = AnswerStore(model, None, seed=0)
    scores = MMLU.evaluate(EvaluationContext(files[0], [0], 0, store.answer, store.label_logprobs))
    assert scores.items[0].score in (0.0, 1.0)
    (row,) = scored
    text = tokenizer.decode(row.prompt)
    assert text.count(ABOUT) == 1 and text.count("Answer:") == 6
    assert text.index(ABOUT) < text.index("Find all c in Z_3") < text.index("Find the degree")
    assert text.count("<bos>") == (family != "qwen3")
    assert [tokenizer.decode(ids) for ids in row.responses] == list("ABCD")
    assert text.rstrip().endswith("</think>") == (family in ("deepseek-r1", "qwen3"))


@pytest.mark.slow
@pytest.mark.weights
def test_texts_and_log_probs_equal_those_of_lm_evals_own_model(files, monkeypatch):
    """32 prompts of IFEval, greedy, 64 tokens; 200 questions of MMLU without examples, to save time. float32."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    try:
        resolve("smollm2-135m")
    except FetchError as error:
        pytest.skip(f"no weights: {error.what}")
    settings = LocalModelSettings(device="cpu", precision="float32")
    model = EvaluatedModel("smollm2-135m", ModelOptions(settings=settings))
    store = AnswerStore(model, None, seed=0)
    theirs = HFLM(pretrained=model._local.source, dtype="float32", device="cpu", batch_size=8)

    def instances(kind, pairs):
        rendered = [(theirs.apply_chat_template(list(messages)), reply) for messages, reply in pairs]
        return [Instance(kind, {}, pair, place, ("t", place, 1)) for place, pair in enumerate(rendered)]

    texts = []

    def answer(questions):
        short = [replace(one, sampling=replace(one.sampling, max_new_tokens=64)) for one in questions]
        answers = store.answer(short)
        limits = {"until": [], "do_sample": False, "max_gen_toks": 64}
        asked = instances("generate_until", [(one.messages, dict(limits)) for one in questions])
        texts.extend(zip([one.text for one in answers], theirs.generate_until(asked), strict=True))
        return answers

    IFEVAL.evaluate(EvaluationContext(files[1], range(0, 512, 16), 0, answer, None))
    assert len(texts) == 32 and [ours for ours, _ in texts] == [own for _, own in texts]

    pairs = []

    def labels(asked):
        ours = store.label_logprobs(asked)
        flat = instances("loglikelihood", [(messages, reply) for messages, replies in asked for reply in replies])
        found = [logp for logp, _ in theirs.loglikelihood(flat)]
        pairs.extend((own, found[4 * place : 4 * place + 4]) for place, own in enumerate(ours))
        return ours

    monkeypatch.setitem(mmlu._EXAMPLES, "num_fewshot", 0)
    scores = MMLU.evaluate(EvaluationContext(files[0], range(0, 14_000, 70), 0, store.answer, labels))
    assert len(scores.items) == len(pairs) == 200
    for ours, own in pairs:
        assert max(range(4), key=ours.__getitem__) == max(range(4), key=own.__getitem__)
        # HFLM scores the template's last line break with the letter: the same constant for the four letters.
        constants = [one - other for one, other in zip(own, ours, strict=True)]
        assert max(constants) - min(constants) < 1e-4 and constants[0] < 1e-4
