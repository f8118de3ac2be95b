"""Requests -> responses: everything that runs a model. Knows no task, metric or prompt."""
