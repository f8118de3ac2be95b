"""Find, check, convert, load and identify checkpoints."""
