"""Data for training and evaluation: annotated images, procedural images, and episodes drawn from them."""
