"""How options are declared: one class per group, one field per option.

A field is the whole declaration of an option: `harness.cli.options` makes the flag from it.
"""

from dataclasses import field
from typing import Any, NewType

Seconds = NewType("Seconds", float)


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare a field as an option.

    Args:
        default: value where the option is not given.
        help: text for `--help`: what the option does, with its unit.
        details: `flag`, the name of the option if it is not that of the field; `min` and `max` of a
            number; `required`, `metavar` and `envvar` as in click.
    """
    return field(default=default, metadata={"help": help, **details})


class OptionGroup:
    """Options that belong together; `--help` shows them under the first word of the class."""

    __slots__ = ()

    def check(self) -> None:
        """Raise a `UsageError` if options of the group contradict each other."""
