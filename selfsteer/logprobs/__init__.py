"""Log-probs of responses: the only place where they are computed."""

from selfsteer.logprobs.cells import ALL_CELLS, Cell, PromptRow, view_cells
from selfsteer.logprobs.pairs import PairLogps
from selfsteer.logprobs.row_attention import row_attention_on, shares_prompts
from selfsteer.logprobs.scoring import pair_views, score_cells, score_responses, score_views

__all__ = [
    "ALL_CELLS",
    "Cell",
    "PairLogps",
    "PromptRow",
    "pair_views",
    "row_attention_on",
    "score_cells",
    "score_responses",
    "score_views",
    "shares_prompts",
    "view_cells",
]
