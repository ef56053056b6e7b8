"""`capeserve bench compare`: other ways to serve the same model."""
