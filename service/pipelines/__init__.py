"""From a support and query crops to keypoints: one pipeline for each kind of system."""
