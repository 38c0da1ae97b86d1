"""The report's figures. Each is a row of small panels, so that a phone shows them one under the other."""

from selfsteer.report.figures.answers import length_figure, logps_figure
from selfsteer.report.figures.panel import Figure
from selfsteer.report.figures.quality import quality_figure
from selfsteer.report.figures.signal import signal_figure
from selfsteer.report.figures.training import loss_figure, rewards_figure

__all__ = [
    "Figure",
    "length_figure",
    "logps_figure",
    "loss_figure",
    "quality_figure",
    "rewards_figure",
    "signal_figure",
]
