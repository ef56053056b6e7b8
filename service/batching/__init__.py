"""Merges the work of many callers into batches for an engine."""
