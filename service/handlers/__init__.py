"""The gRPC side: one servicer per service, and the one place where errors become statuses."""
