"""Log-probs of responses: the only place where they are computed."""

from selfsteer.logprobs.cells import ALL_CELLS, Cell, PromptRow, row_tokens, view_cells
from selfsteer.logprobs.pairs import PairLogps
from selfsteer.logprobs.row_attention import row_attention_on, shares_prompts
from selfsteer.logprobs.scoring import pair_views, prepare_scoring, score_cells, score_responses, score_views
