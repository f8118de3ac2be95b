"""Conclusions from records: comparisons, verdicts, sample sizes, leaderboards, scaling laws."""
