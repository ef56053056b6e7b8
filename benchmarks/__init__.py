"""Latency, load, cost and comparison runs, and their recorded results."""
