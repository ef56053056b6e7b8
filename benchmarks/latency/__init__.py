"""`capeserve bench latency`: cold and warm latency beside the paper's Table 5."""
