"""Figures that explain predictions, like Figures 6 and 8 of the multi-modal paper."""

from cape.explanation.figure import explanation_figure
from cape.explanation.selection import spread_out

__all__ = ["explanation_figure", "spread_out"]
