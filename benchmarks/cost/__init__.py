"""`capeserve bench cost`: parameters and FLOPs beside the paper's Table 5."""
