"""Results on a terminal: tables, lines, progress and notes."""
