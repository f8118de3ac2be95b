"""Load a benchmark's original file into rows."""
