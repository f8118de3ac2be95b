"""Attention that is computed in parts: what many completions see once, and what is their own."""
