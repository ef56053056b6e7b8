"""CapeLLM in PyTorch: model, adapters, decoding, checkpoints."""
