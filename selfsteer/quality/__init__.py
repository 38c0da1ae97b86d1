"""Quality control: clean responses, then drop rows by named filters; every drop carries its reason."""

from selfsteer.quality.chain import FilterChain, apply_filters, count_reasons
from selfsteer.quality.cleaning import clean_response
from selfsteer.quality.direction import DIRECTIONS, direction_of
from selfsteer.quality.filters import (
    FILTERS,
    FilterReport,
    advice,
    counts_table,
    parse_filters,
    steering_margin,
)
from selfsteer.quality.thinking import think_apart

__all__ = [
    "DIRECTIONS",
    "FILTERS",
    "FilterChain",
    "FilterReport",
    "advice",
    "apply_filters",
    "clean_response",
    "count_reasons",
    "counts_table",
    "direction_of",
    "parse_filters",
    "steering_margin",
    "think_apart",
]
