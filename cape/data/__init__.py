"""Data to train and evaluate on: photographs with keypoints, procedural pictures, and episodes drawn from them."""
