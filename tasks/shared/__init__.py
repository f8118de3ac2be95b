"""What several benchmarks share: running text, Wikipedia dumps, few-shot pairs."""
