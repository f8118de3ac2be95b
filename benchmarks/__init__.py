"""Scripts that measure speed and agreement; run them as `python -m benchmarks.NAME`."""
