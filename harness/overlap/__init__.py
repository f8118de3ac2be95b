"""How much of a benchmark's text stands in a corpus: n-grams of both, and what they share."""
