"""Figures that show why keypoints were found where they were, like Figures 6 and 8 of the multi-modal paper."""

from cape.explanation.figure import explanation_figure
from cape.explanation.selection import spread_out

__all__ = ["explanation_figure", "spread_out"]
