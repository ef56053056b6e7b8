"""gRPC stubs of cape.v1, generated from `protos/` by `make protos`; do not edit."""
