"""Commands that compare runs: compare, baseline, check, power, jitter."""
