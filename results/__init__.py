"""Result data: published numbers; no code."""
