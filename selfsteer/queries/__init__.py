"""Queries: the prompts to align on, read from the forms people keep them in, cleaned, and grown from a seed set."""

from selfsteer.queries.checks import Checks, Fault, check_languages
from selfsteer.queries.load import (
    Dropped,
    Loaded,
    check_dataset_split,
    is_hub,
    is_split,
    load_queries,
    reads_file,
    source_fingerprint,
    source_rows,
    stream_queries,
)
