"""Plugins: find tasks through entry points, and refuse those that are wrong."""
