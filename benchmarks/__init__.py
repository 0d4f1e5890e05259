"""Measurements, each of which anyone can repeat: `make bench`, or `python -m benchmarks.NAME`."""
