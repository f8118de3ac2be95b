"""Answers to queries by asking a server: spans, next words and generated texts."""
