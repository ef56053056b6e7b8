"""How well keypoints are found: test pairs, predictions from anywhere, scores, calibration, robustness, reports."""
