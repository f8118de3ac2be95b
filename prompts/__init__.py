"""Prompt templates, one text file each; data only."""
