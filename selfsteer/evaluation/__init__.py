"""Measures before and after: direction, margin, on-policyness, implicit reward, length."""

from selfsteer.evaluation.measures import Measure, measure, response_length, verdict

__all__ = ["Measure", "measure", "response_length", "verdict"]
