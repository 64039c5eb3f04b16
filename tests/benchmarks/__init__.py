"""Ours against the plain way, in the same run: `python -m tests.benchmarks`."""
