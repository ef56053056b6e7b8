"""`capeserve bench front-end`: the service around an engine that answers at once."""
