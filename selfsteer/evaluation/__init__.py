"""Measures before and after: direction, margin, on-policyness, implicit reward, length."""

from selfsteer.evaluation.metrics import Measure, measure, response_length, verdict

__all__ = ["Measure", "measure", "response_length", "verdict"]
