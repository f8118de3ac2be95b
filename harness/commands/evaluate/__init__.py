"""Commands that run a model on benchmarks."""
