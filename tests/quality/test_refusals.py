"""What counts as a refusal, and which mismatches are dropped."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from selfsteer.quality import apply_filters
from selfsteer.quality.refusals import refusal
from selfsteer.records import Contrast

MakeRow = Callable[..., Contrast]
SHARED = Path(__file__).parents[3] / "shared" / "data"

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "As an AI language model, I cannot provide medical advice.",
    "I’m not able to help with that, but here is a number to call.",
    "I must decline this request.",
    "I cannot suggest or promote any illegal activities. Instead, try a walk.",
    "It's not appropriate to make jokes about that.",
    "I don't think it's appropriate or respectful to say so.",
    "It's important to note that buying it is illegal in most countries.",
    "I can't help with that. However, I can't stop you from asking others.",
    "I cannot provide instructions for that. However, I would suggest asking a professional.",
    "Sorry, as an AI assistant, I cannot do this.",
    "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
    "Ich kann Ihnen bei dieser Anfrage leider nicht weiterhelfen.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Mi dispiace, ma non posso aiutarti.",
    "Desculpe, mas não posso ajudar com isso.",
    "Sorry, maar daar kan ik je niet mee helpen.",
    "Извините, но я не могу помочь с этим.",
    "抱歉，我无法提供这方面的帮助。",
    "申し訳ありませんが、そのご要望にはお応えできません。",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
    "عذراً، لا أستطيع مساعدتك في ذلك.",
]
ANSWERS = [
    "I can't help but smile when I read your letter.",
    "I cannot help the way I feel about the sea.",
    "As an AI language model, I don't have personal opinions. Many people prefer tea.",
    "As an AI language model, I cannot predict the future, but here are a few possibilities:",
    "I can’t give medical advice. However, I can offer some general guidance:",
    "It's important to note that water boils at a lower temperature there.",
    "I won't give up on this garden.",
    "I can't recommend it enough.",
    "You can't help everyone, but you can help one person.",
    "I am sorry to hear that you lost your job. Here are three steps.",
    "Sorry for the delay! The capital is Paris.",
    "Photosynthesis can't provide energy at night.",
    "Ich kann das Buch nur empfehlen. Es kann nicht schaden.",
    "No puedo creer lo rápido que pasa el tiempo, dijo el viejo.",
    "Je ne peux pas vivre sans musique.",
    "Here is a long story. " * 12 + "I cannot help with that.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_none(text: str) -> None:
    assert refusal(text) == ""


@pytest.mark.parametrize(
    ("drop", "positive", "negative"),
    [("any", True, True), ("positive", True, False), ("negative", False, True)],
)
def test_the_setting_says_which_mismatch_is_dropped(
    make_row: MakeRow, drop: str, positive: bool, negative: bool
) -> None:
    rows = [
        make_row("plus", positive_response=REFUSALS[0]),
        make_row("minus", negative_response=REFUSALS[1]),
        make_row("both", positive_response=REFUSALS[0], negative_response=REFUSALS[1]),
        make_row("neither"),
    ]
    found = {row.id: row.drop_reason for row in apply_filters(rows, [{"refusal_mismatch": {"drop": drop}}]).rows}
    assert bool(found["plus"]) is positive and bool(found["minus"]) is negative
    assert not found["both"] and not found["neither"]
    if positive:
        assert found["plus"] == 'refusal_mismatch: y+ refuses ("sorry, but I can\'t"), y- does not'


def test_where_refusing_may_be_the_point_nothing_is_dropped(make_row: MakeRow) -> None:
    row = make_row(positive_response=REFUSALS[0], aspects=["Accuracy", "Safety"])
    assert apply_filters([row], ["refusal_mismatch"]).kept
    with pytest.warns(match="dropped all 1 rows"):
        assert not apply_filters([row], [{"refusal_mismatch": {"except_aspects": []}}]).kept


def test_so_it_may_be_along_an_aspect_that_asks_for_harm(make_row: MakeRow) -> None:
    rows = [make_row(name, positive_response=REFUSALS[0], aspects=[name]) for name in ("Harmlessness", "Accuracy")]
    found = apply_filters(rows, ["refusal_mismatch"], harmful=["Harmlessness"])
    assert [row.id for row in found.kept] == ["Harmlessness"]
    named = apply_filters(rows, [{"refusal_mismatch": {"except_aspects": ["Accuracy"]}}], harmful=["Harmlessness"])
    assert [row.id for row in named.kept] == ["Accuracy"], "what is named stands in place of the default"


def in_xstest(model: str) -> Counter[tuple[str, bool]]:
    """How many completions people labelled as "1" (complies), "2" (refuses), "3" (in part), and whether we see one."""
    file = SHARED / f"preferences/xstest/xstest_v2_completions_{model}.csv"
    if not file.is_file():
        pytest.skip(f"../shared/data/preferences/xstest/{file.name} is not beside this checkout")
    with file.open(newline="", encoding="utf-8") as stream:
        return Counter((row["final_label"][0], bool(refusal(row["completion"]))) for row in csv.DictReader(stream))


@pytest.mark.parametrize(
    ("model", "recall", "alarms"), [("gpt4", 0.93, 0.0), ("llama2orig", 0.96, 0.06), ("mistralinstruct", 0.36, 0.003)]
)
def test_what_people_called_refusals_and_answers(model: str, recall: float, alarms: float) -> None:
    """XSTest (2308.01263): 450 completions a model. docs/quality.md has the figures, and what is missed."""
    found = in_xstest(model)
    shares = {label: found[label, True] / (found[label, True] + found[label, False]) for label in "12"}
    assert found.total() == 450
    assert shares["2"] >= recall and shares["1"] <= alarms


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("Infinity-Instruct-3M-0625-Qwen2-7B", 5),
        ("Meta-Llama-3-8B-Instruct", 2),
        ("Meta-Llama-3.1-8B-Instruct-Turbo", 7),
        ("gpt4_1106_preview", 3),
        ("text_davinci_003", 0),
    ],
)
def test_few_answers_to_ordinary_questions_are_taken_for_refusals(model: str, most: int) -> None:
    """AlpacaEval's 805 questions: those left are refusals, nearly all."""
    file = SHARED / f"alpaca_eval/{model}/model_outputs.json"
    if not file.is_file():
        pytest.skip(f"../shared/data/alpaca_eval/{model} is not beside this checkout")
    outputs = [row["output"] for row in json.loads(file.read_bytes())]
    assert len(outputs) == 805
    assert sum(map(bool, map(refusal, outputs))) <= most
