"""Writing text: prompts to completions, token by token."""
