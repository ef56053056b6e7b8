"""Inputs and outputs of `capeserve estimate`: folders, COCO files, videos; JSON lines, CSV, COCO results."""
