"""What several benchmarks share: servers, callers, workloads, records and tables."""
