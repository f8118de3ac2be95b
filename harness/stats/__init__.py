"""Confidence intervals, paired tests and sample sizes."""
