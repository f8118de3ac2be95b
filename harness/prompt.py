"""Prompt templates: plain text files that show the bytes the model reads.

A slot is `{name}`; `{{` and `}}` are braces. Filling is strict in both directions, braces in
the data stay as they are. The loader removes the one newline that ends a text file and
nothing else.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Formatter

from harness.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """A template and the name of the file it came from."""

    name: str
    template: str

    @classmethod
    def load(cls, name: str, package: str = "harness.prompts") -> "Prompt":
        """Read `name` from a package's folder; a plugin ships its own with `package=`.

        Raises:
            PromptError: there is no such package or file, or a slot in it is not a plain name.
        """
        try:
            path = files(package) / name
        except ImportError as error:
            raise PromptError(f"package {package!r} of prompt {name!r}: {error}") from error
        if not path.is_file():
            raise PromptError(f"prompt {name!r} is not in package {package!r}")
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(f"prompt {name!r} is not UTF-8: {error}") from None
        prompt = cls(name, text.removesuffix("\n"))
        try:
            slots = [(slot, *how) for _, slot, *how in Formatter().parse(prompt.template)]
        except ValueError as error:
            raise PromptError(
                f"prompt {name!r}: {error}; write {{{{ and }}}} where a brace is meant"
            ) from None
        bad = [slot for slot, *how in slots if slot is not None and not _plain(slot, how)]
        if bad:
            raise PromptError(f"prompt {name!r}: slots must be plain names, got {bad}")
        return prompt

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order, each once."""
        names = (name for _, name, _, _ in Formatter().parse(self.template) if name is not None)
        return tuple(dict.fromkeys(names))

    @cached_property
    def sha256(self) -> str:
        """Digest of the template's text, for the record."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, /, **fields: str) -> str:
        """Fill every slot: `Prompt("q", "Q: {q}").render(q="Why?")` gives `"Q: Why?"`.

        Raises:
            PromptError: a field is missing, or one is given that the template does not use.
        """
        if set(fields) != set(self.slots):
            raise PromptError(
                f"prompt {self.name!r} has slots {sorted(self.slots)}, got {sorted(fields)}"
            )
        return self.template.format_map(fields)


def _plain(slot: str, how: Sequence[str | None]) -> bool:
    """Whether a slot is a name and nothing else: no index, format or conversion."""
    return slot.isidentifier() and not any(how)
