"""`capeserve bench scaling`: cost by request size, cores and processes."""
