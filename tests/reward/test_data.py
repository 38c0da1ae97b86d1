"""From pairs to examples: nothing is left out without a reason, and weight, balance and margins act."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from selfsteer.chat_template import ChatTemplate
from selfsteer.queries import Dropped
from selfsteer.reward.data import (
    BEYOND,
    EVALUATED,
    UNBALANCED,
    UNDRAWN,
    Example,
    balanced,
    encoded,
    longer_chosen,
    mixed,
    prompt_key,
    read_examples,
    with_margins,
    write_examples,
)
from selfsteer.reward.scoring import conversation_ids
from tests.chat_templates import tokenizer_of, user
from tests.reward.pairs import toy_pairs


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(tokenizer_of("chatml"))


def example(number: int, chosen: int, rejected: int, **changes) -> Example:
    """An example of so many tokens."""
    return Example("s", f"e{number}", "w", (1,) * chosen, (2,) * rejected, None)._replace(**changes)


def test_examples_are_both_conversations_as_scoring_renders_them(template):
    (pair,) = toy_pairs(1)
    found = encoded("s", [replace(pair, margin=0.5)], template, max_length=512)
    both = [[*pair.prompt, {"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected)]
    ids = [conversation_ids(template, one, "m") for one in both]
    assert found.kept == [Example("s", pair.id, pair.where, *ids, 0.5)] and not found.left_out


def test_what_is_left_out_has_its_reason(template):
    first, second, third, fourth = toy_pairs(4)
    longest = max(len(ids) for one in encoded("s", [first], template, max_length=999).kept for ids in one[3:5])
    pairs = [
        first,
        replace(second, rejected="long " * 50),
        replace(third, rejected=third.chosen),
        replace(fourth, prompt=user("  question NUMBER 99!", system="Be brief.")),
        Dropped("d", "file:5", "an empty answer"),
    ]
    keys = frozenset([prompt_key(user("Question number 99?"))])
    found = encoded("s", pairs, template, max_length=longest, evaluated=keys)
    assert [one.id for one in found.kept] == [first.id]
    assert [(item.id, item.reason) for item in found.left_out] == [
        (second.id, f"longer than {longest} tokens"),
        (third.id, "both answers are the same"),
        (fourth.id, EVALUATED),
        ("d", "an empty answer"),
    ]


def test_a_prompt_that_the_template_refuses_is_left_out():
    pairs = [replace(pair, prompt=[*user("Hi"), *user("again")]) for pair in toy_pairs(1)]
    found = encoded("s", pairs, ChatTemplate(tokenizer_of("gemma")), max_length=512)
    assert not found.kept and "refuses a prompt with the roles user, user, assistant" in found.left_out[0].reason


def test_prompts_are_compared_by_their_turns_without_system_message_case_and_punctuation():
    assert prompt_key(user("Why, oh WHY?")) == prompt_key(user("why oh why", "Be kind."))
    assert prompt_key(user("why")) != prompt_key([*user("why"), {"role": "assistant", "content": "x"}, *user("why")])
    assert prompt_key(user("why a")) != prompt_key(user("why b"))


def test_a_limit_counts_what_can_be_used_and_draws_at_random(template):
    pairs = [replace(pair, rejected=pair.chosen) if number < 10 else pair for number, pair in enumerate(toy_pairs(40))]
    found = encoded("s", pairs, template, max_length=512, limit=12)
    assert len(found.kept) == 12 and found == encoded("s", pairs, template, max_length=512, limit=12)
    kept = [int(one.id.removeprefix("toy-")) for one in found.kept]
    assert kept == sorted(kept) and kept != list(range(10, 22))
    reasons = Counter(item.reason for item in found.left_out)
    assert reasons.total() == 28 and reasons[BEYOND] >= 18
    assert len(encoded("s", pairs, template, max_length=512, limit=99).kept) == 30


@pytest.mark.parametrize(("weight", "taken"), [(0.5, 10), (1.0, 20), (1.25, 25), (2.0, 40), (0.01, 0)])
def test_a_weight_is_the_share_of_the_rows_that_is_taken(weight, taken):
    examples = [example(number, 3, 2) for number in range(20)]
    found = mixed({"s": examples}, {"s": weight}, seed=0)
    counts = Counter(one.id for one in found.kept)
    assert counts.total() == taken
    assert len(counts) == min(20, taken) and set(counts.values()) <= {int(weight), int(weight) + 1}
    assert [item.reason for item in found.left_out] == [UNDRAWN] * max(0, 20 - taken)


def test_the_seed_draws_other_rows():
    examples = [example(number, 3, 2) for number in range(20)]
    drawn = [[one.id for one in mixed({"s": examples}, {"s": 0.5}, seed).kept] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_balancing_leaves_as_many_longer_as_shorter_in_every_bin():
    differences = [1] * 5 + [-1] * 2 + [2, 3, 3] + [-2] * 4 + [40] * 6 + [-33] + [0] * 3 + [-9] * 4
    examples = [example(number, 100 + max(d, 0), 100 - min(d, 0)) for number, d in enumerate(differences)]
    found = balanced(examples, seed=0)
    kept = Counter(one.longer for one in found.kept)
    # bins 1; 2 to 3; 8 to 15 (which has no longer one); 32 to 63
    assert kept[1] == kept[-1] == 2
    assert kept[2] + kept[3] == kept[-2] == 3
    assert kept[-9] == 0 and kept[40] == kept[-33] == 1 and kept[0] == 3
    assert longer_chosen(examples) > 0.5 == longer_chosen(found.kept)
    assert [item.reason for item in found.left_out] == [UNBALANCED] * (len(examples) - len(found.kept))
    others = [tuple(one.id for one in balanced(examples, seed).kept) for seed in (0, 1, 2, 3)]
    assert others[0] == tuple(one.id for one in found.kept) and len(set(others)) > 1


def test_margins_are_scaled_and_0_where_there_are_none():
    examples = [example(0, 2, 1, margin=0.5), example(1, 2, 1), example(2, 2, 1, margin=-1.0)]
    assert [one.margin for one in with_margins(examples, 2.0)] == [1.0, 0.0, -2.0]
    assert [one.margin for one in with_margins(examples, None)] == [None] * 3


def test_examples_come_back_as_they_were_written(tmp_path):
    examples = [example(0, 3, 2, margin=0.25), example(1, 1, 4)]
    write_examples(tmp_path / "e.parquet", examples)
    assert read_examples(tmp_path / "e.parquet") == examples
