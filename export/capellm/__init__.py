"""CapeLLM: checkpoint to ONNX graphs, repository, reduced weights and vLLM."""
