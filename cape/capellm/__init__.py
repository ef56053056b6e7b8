"""CapeLLM: keypoints from words alone, by a multi-modal language model. What needs no torch: words, numbers, tokens."""
