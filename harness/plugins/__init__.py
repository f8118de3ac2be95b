"""Find tasks through entry points, and check what their functions do."""
