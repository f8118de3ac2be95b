"""`harness watch`: evaluate the checkpoints of a folder as they appear."""
