"""Escape text of unknown origin for the place that it is written to.

Names and messages come from records, checkpoints and plugins of other people. Each place interprets
some text as instructions: a terminal its escape sequences, a spreadsheet formulas, Markdown HTML
and links, a CI log workflow commands.
"""

import json
import re
import unicodedata
from typing import Any

# Formulas of Excel, LibreOffice and Google Sheets (OWASP, "CSV Injection"), full-width signs too.
_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_MARKDOWN = re.compile(r"([\\`*\[\]|])")
# https://docs.github.com/actions/reference/workflow-commands-for-github-actions: at a line's start
_WORKFLOW_COMMAND = re.compile(r"(?m)^(\s*)(?::(?=:)|#(?=#\[))")
_CONTROL_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi marks, surrogates, separators
_ALLOWED = "\t\n\u200c\u200d"  # several scripts need the two joiners


def printable(text: str) -> str:
    """Replace characters that control a terminal by U+FFFD; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES and character not in _ALLOWED


def json_line(value: Any) -> str:
    """A JSON value on one line; characters that control a terminal are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if _is_control(c) else c for c in text)


def one_line(text: str) -> str:
    """Printable text on one line: any white space becomes one space."""
    return printable(" ".join(text.split()))


def csv_cell(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula: `=x` becomes `'=x`."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA_STARTS) else line


def markdown_cell(text: str) -> str:
    """Text for one cell of a Markdown table, without HTML, links, emphasis and cell borders."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def without_workflow_commands(text: str) -> str:
    """Text of the same length without commands for a CI runner such as `::error::`."""
    return _WORKFLOW_COMMAND.sub("\\1\ufffd", text)
