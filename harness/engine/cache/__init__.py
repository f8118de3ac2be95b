"""The response cache: answers on disk, keyed by checkpoint and query."""
