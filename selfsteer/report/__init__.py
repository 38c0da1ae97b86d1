"""The report: a run directory becomes one self-contained HTML page."""

from selfsteer.report.page import write_report

__all__ = ["write_report"]
