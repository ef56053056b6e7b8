"""`capeserve bench engine`: an engine without network, queues and decoding."""
