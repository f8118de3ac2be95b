"""Benchmarks found through entry points, and the checks around their functions."""
