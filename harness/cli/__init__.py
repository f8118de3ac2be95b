"""The command line: words, options and help. Each command calls one of `harness.commands`."""
