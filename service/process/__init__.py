"""The server's process: CPUs, memory, background tasks, shutdown."""
