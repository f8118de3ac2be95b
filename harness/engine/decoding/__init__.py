"""Generate text: prompts to completions, token by token."""
