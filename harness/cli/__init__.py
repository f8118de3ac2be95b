"""The command line: arguments, options and help.

One file per command, which calls the function of the same command in `harness.commands`. Heavy
imports happen inside the command that needs them.
"""
