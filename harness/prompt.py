"""Prompt templates: plain text files that contain the bytes the model reads.

A slot is `{name}`; `{{` and `}}` are literal braces. Braces in the data stay as they are. The
loader removes the one newline that ends a text file and nothing else.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Formatter

from harness.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """A template and the name of its file."""

    name: str
    template: str

    @classmethod
    def load(cls, name: str, package: str = "harness.prompts") -> "Prompt":
        """Read a template from a package; plugins give their own as `package`.

        Raises:
            PromptError: there is no such package or file, or a slot is not a plain name.
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
            slots = [parts[1:] for parts in Formatter().parse(prompt.template)]
        except ValueError as error:
            raise PromptError(
                f"prompt {name!r}: {error}; write {{{{ and }}}} for literal braces"
            ) from None
        bad = [
            slot
            for slot, *format_or_conversion in slots
            if slot is not None and (not slot.isidentifier() or any(format_or_conversion))
        ]
        if bad:
            raise PromptError(f"prompt {name!r}: slots must be plain names, got {bad}")
        return prompt

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots in order, without repetitions."""
        names = (name for _, name, _, _ in Formatter().parse(self.template) if name is not None)
        return tuple(dict.fromkeys(names))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the template, for the record."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, /, **fields: str) -> str:
        """Fill every slot: `Prompt("q", "Q: {q}").render(q="Why?")` gives `"Q: Why?"`.

        Raises:
            PromptError: the fields are not exactly the slots of the template.
        """
        return "".join(self.render_parts(**fields))

    def render_parts(self, /, **fields: str) -> tuple[str, ...]:
        r"""Fill every slot and split the text after each of them.

        >>> Prompt("p", "{article}\nTL;DR:").render_parts(article="One. Two.")
        ('One. Two.', '\nTL;DR:')

        Raises:
            PromptError: the fields are not exactly the slots of the template.
        """
        if set(fields) != set(self.slots):
            raise PromptError(
                f"prompt {self.name!r} has slots {sorted(self.slots)}, got {sorted(fields)}"
            )
        parts = [""]
        for literal, slot, _, _ in Formatter().parse(self.template):
            parts[-1] += literal
            if slot is not None:
                parts[-1] += fields[slot]
                parts.append("")
        return tuple(parts)
