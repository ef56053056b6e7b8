"""`capeserve bench roofline`: the image backbone beside the machine's peak."""
