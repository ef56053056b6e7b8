"""Evaluation: test pairs, predictions from several sources, scores, calibration, robustness, reports."""
