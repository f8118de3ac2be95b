"""Evaluate models while they are trained: one call, an object for loops, a Trainer callback."""
