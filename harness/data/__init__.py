"""From a benchmark's original file to its rows."""
