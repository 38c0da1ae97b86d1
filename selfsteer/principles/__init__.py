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

__all__ = [
    "Aspect",
    "Choice",
    "Example",
    "PrinciplePair",
    "PrincipleSet",
    "Written",
    "choice_without_model",
    "chooser_messages",
    "fold_system",
    "guideline_messages",
    "guideline_schema",
    "list_sets",
    "load_set",
    "pair_for",
    "pair_messages",
    "pairs_schema",
    "parse_choice",
    "parse_guideline",
    "parse_pairs",
    "parse_set",
    "steer",
    "steering_message",
    "template_contents",
    "template_versions",
    "with_extra",
]
