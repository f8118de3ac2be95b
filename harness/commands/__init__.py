"""What the commands do, one module each: data, runner and engine brought together.

`harness.cli` and the other commands call them. `session` is what they hold open, `display` says
how it looks.
"""
