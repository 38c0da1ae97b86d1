"""Training the policy: SSOConfig, SSOTrainer, and the log-probs they are built on."""

from selfsteer.logprobs import score_views
from selfsteer.policy.config import SSOConfig
from selfsteer.policy.trainer import SSOTrainer

__all__ = ["SSOConfig", "SSOTrainer", "score_views"]
