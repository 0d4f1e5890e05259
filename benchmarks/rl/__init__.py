"""Benchmarks of C-PSRL."""
