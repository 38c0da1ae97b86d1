"""Quality control: clean responses, then drop rows by named filters; every drop carries its reason."""

from selfsteer.quality.chain import FilterChain, apply_filters
from selfsteer.quality.cleaning import clean_response
from selfsteer.quality.direction import DIRECTIONS, direction_of
from selfsteer.quality.drop_counts import DropCounts
from selfsteer.quality.filters import FILTERS, FilterReport, advice, few_kept, parse_filters
from selfsteer.quality.harm import HarmClassifier, flag_harm
from selfsteer.quality.reward import RewardMargin, put_margin, stored_margin
from selfsteer.quality.score_filters import contrastive_likelihood, steering_margin
from selfsteer.quality.thinking import answer_of, think_apart
