"""`capeserve bench gpu`: engine, service and PyTorch on one GPU."""
