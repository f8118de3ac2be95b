"""What the commands do, one module per command; `options` has what several of them take."""
