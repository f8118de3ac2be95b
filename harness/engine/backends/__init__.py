"""Where queries are answered: in this process, or on Ray workers."""
