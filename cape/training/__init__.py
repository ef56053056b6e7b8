"""Training: episodes in, checkpoints out; `cape.training.run.train` puts it together."""
