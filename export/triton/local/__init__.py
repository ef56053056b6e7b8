"""A real Triton server on any Linux machine, without a container or a GPU: for tests and for development."""
