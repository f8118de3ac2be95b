"""`python -m harness`."""

from harness.cli.group import main

main()
