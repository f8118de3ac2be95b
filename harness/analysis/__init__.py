"""What is concluded from records: comparisons, verdicts, sample sizes and leaderboards."""
