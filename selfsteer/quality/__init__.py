"""Quality control: clean responses, then drop rows by named filters; every drop carries its reason."""

from selfsteer.quality.cleaning import clean_response
from selfsteer.quality.direction import DIRECTIONS, direction_of
from selfsteer.quality.filters import (
    FILTERS,
    FilterReport,
    advice,
    apply_filters,
    counts_table,
    parse_filters,
    steering_margin,
)

__all__ = [
    "DIRECTIONS",
    "FILTERS",
    "FilterReport",
    "advice",
    "apply_filters",
    "clean_response",
    "counts_table",
    "direction_of",
    "parse_filters",
    "steering_margin",
]
