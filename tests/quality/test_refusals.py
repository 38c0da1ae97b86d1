"""What counts as a refusal, and which mismatches are dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from selfsteer.quality import apply_filters
from selfsteer.quality.refusals import refusal
from selfsteer.records import Contrast

MakeRow = Callable[..., Contrast]

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "As an AI language model, I cannot provide medical advice.",
    "I’m not able to help with that, but here is a number to call.",
    "I must decline this request.",
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
