"""Requests -> responses. Knows tokens, tensors and devices; knows no task, metric or prompt."""
