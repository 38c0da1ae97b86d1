"""Reward models: Bradley-Terry training on preference pairs of any source, and scoring."""

from selfsteer.reward.loading import load_reward_model
from selfsteer.reward.scoring import score
