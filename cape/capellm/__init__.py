"""CapeLLM, a multimodal language model that finds keypoints from text alone: the parts that need no torch."""
