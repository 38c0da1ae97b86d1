"""Principles: sets of aspects, choosing among them, principle pairs and steered prompts (PAPER 4)."""

from selfsteer.principles.choose import Choice, choice_without_model, chooser_messages, parse_choice, with_extra
from selfsteer.principles.pair import PrinciplePair, pair_for, steering_message
from selfsteer.principles.principle_set import Aspect, Example, PrincipleSet
from selfsteer.principles.prompt_templates import template_contents, template_versions
from selfsteer.principles.steer import fold_system, steer
from selfsteer.principles.write import (
    Written,
    guideline_messages,
    guideline_schema,
    pair_messages,
    pairs_schema,
    parse_guideline,
    parse_pairs,
)
from selfsteer.principles.yaml_reader import list_sets, load_set, parse_set
