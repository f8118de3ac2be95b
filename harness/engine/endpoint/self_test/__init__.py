"""Questions with known answers, asked before the first item."""
