"""The gRPC service: API, preparation, batching, caches, support registry and engines."""
