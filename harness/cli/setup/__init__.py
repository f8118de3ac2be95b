"""Commands for the installation: checks, the response cache, new tasks, shell completion."""
