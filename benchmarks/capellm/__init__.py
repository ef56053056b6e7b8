"""`capeserve bench capellm`: batched decoding over a shared prefix."""
