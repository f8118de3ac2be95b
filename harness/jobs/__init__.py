"""Jobs: which tasks, under which protocols, on which rows, within which time."""
