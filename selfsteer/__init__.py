"""Align a chat model with no human labels, by Self-Steering Optimization (arXiv 2410.17131)."""

__version__ = "0.1.0"
