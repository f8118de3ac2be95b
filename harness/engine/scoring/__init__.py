"""Log-probabilities of given tokens, and searches for the best next word."""
