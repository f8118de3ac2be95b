"""Checkpoints of nanochat: two of its layouts are evaluated, those between them are refused."""
