"""Reward models: Bradley-Terry training on preference pairs of any source, and scoring."""

# ruff: noqa: F401 - the names that other packages import from here

from selfsteer.reward.loading import load_reward_model
from selfsteer.reward.scoring import score
