"""Images of requests: bytes in, upright RGB pixels out, within limits."""
