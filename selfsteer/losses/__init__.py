"""The losses: pure functions on log-probs, per example out. No model, no batch, no mean is taken here."""

from selfsteer.logprobs.pairs import PairLogps
from selfsteer.losses.base import BASE_LOSSES, base_loss
from selfsteer.losses.bundle import SSOLoss
from selfsteer.losses.generator import generator_loss
from selfsteer.losses.sso import onpolicy_weight, sso_loss
from selfsteer.losses.supervised import base_view_loss, supervised_loss
