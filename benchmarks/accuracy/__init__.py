"""`capeserve bench accuracy`: PCK lost between PyTorch and what is served."""
