"""`capeserve soak`: mixed traffic to real servers with injected faults."""
