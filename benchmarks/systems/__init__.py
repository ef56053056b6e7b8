"""`capeserve bench systems`: every system of the paper, measured in every form."""
