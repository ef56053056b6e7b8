"""Metrics, logs, traces and live performance figures."""
