"""`capeserve bench memory`: memory growth over many requests."""
