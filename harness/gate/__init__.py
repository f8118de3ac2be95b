"""The gate: the benchmarks of a baseline, run in slices until every verdict is in."""
