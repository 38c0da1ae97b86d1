"""Queries: the prompts to align on, read from the forms people keep them in."""

from selfsteer.queries.load import (
    Dropped,
    Loaded,
    check_split,
    load_queries,
    source_fingerprint,
    stream_queries,
    stream_rows,
)

__all__ = ["Dropped", "Loaded", "check_split", "load_queries", "source_fingerprint", "stream_queries", "stream_rows"]
