"""`capeserve bench load`: throughput and latency under load and overload."""
