"""Training of CapeLLM: conversations, batches, losses, the run."""
