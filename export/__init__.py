"""From a checkpoint to a repository of ONNX graphs that are proven to answer as PyTorch does."""
