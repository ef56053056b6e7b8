"""The method in PyTorch: one file an idea, put together in `cape.models.system`."""
