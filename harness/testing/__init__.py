"""Checks for plugin authors: conformance, static checks and golden requests."""
