"""Which response is chosen and which rejected under which prompt, as the paper has it."""

from __future__ import annotations

import json

from selfsteer.views import PAIRINGS, SSO_VIEWS, View


def test_the_pairings_are_those_of_the_paper():
    assert PAIRINGS == {
        View.BASE: ("prompt", "positive", "negative"),  # x:  y+ > y-
        View.POSITIVE: ("positive_prompt", "positive", "negative"),  # x+: y+ > y-
        View.NEGATIVE: ("negative_prompt", "original", "positive"),  # x-: yo > y+
        View.NEGATIVE_STRICT: ("negative_prompt", "negative", "positive"),  # x-: y- > y+ (v2's ablation)
    }


def test_sso_takes_the_three_views_without_the_ablation():
    assert SSO_VIEWS == (View.BASE, View.POSITIVE, View.NEGATIVE)


def test_views_are_strings_in_logs_and_json():
    assert json.dumps(View.NEGATIVE_STRICT) == '"negative_strict"'
    assert View("base") is View.BASE
