"""Layouts of packed rows to test with, and what attends to what in them, from the definition."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from selfsteer.logprobs.packing import Layout

layouts = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=1, max_size=3)), min_size=1, max_size=3
).map(lambda rows: Layout(tuple(prompt for prompt, _ in rows), tuple(tuple(lengths) for _, lengths in rows)))


def by_definition(layout, sliding_window):
    """(T, T) from the words: same row, in the prompt or in the own response, not later, within the window."""
    tokens = []  # (row, segment, is prompt, position)
    for row, (prompt, responses) in enumerate(zip(layout.prompts, layout.responses, strict=True)):
        tokens += [(row, 0, True, position) for position in range(prompt)]
        for segment, length in enumerate(responses, start=1):
            tokens += [(row, segment, False, prompt + i) for i in range(length)]
    allowed = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for q, (q_row, q_segment, _, q_position) in enumerate(tokens):
        for k, (k_row, k_segment, k_is_prompt, k_position) in enumerate(tokens[: q + 1]):
            near = sliding_window is None or q_position - k_position < sliding_window
            allowed[q, k] = q_row == k_row and (k_is_prompt or k_segment == q_segment) and near
    return allowed
