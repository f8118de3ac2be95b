"""Text of unknown origin made safe for the place that it is written to.

Names and messages come from records, checkpoints and plugins of other people. What each place
would take for an instruction is taken from them here: a terminal's escape sequences, a
spreadsheet's formulas, Markdown's HTML and links, the workflow commands of a CI log.
"""

import json
import re
import unicodedata
from typing import Any

# Formulas of Excel, LibreOffice and Google Sheets (OWASP, "CSV Injection"), full-width signs too.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_MARKDOWN = re.compile(r"([\\`*\[\]|])")
# https://docs.github.com/actions/reference/workflow-commands-for-github-actions: at a line's start
_WORKFLOW_COMMAND = re.compile(r"(?m)^(\s*)(?::(?=:)|#(?=#\[))")
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi marks, surrogates, separators
_KEPT = "\t\n\u200c\u200d"  # the two joiners are letters' business in several scripts


def printable(text: str) -> str:
    """`text` without characters that steer a terminal; each is shown as U+FFFD.

    Line breaks and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE and character not in _KEPT


def json_line(value: Any) -> str:
    """A JSON value on one line, in which such characters are escaped, so that none is lost."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if _steers(c) else c for c in text)


def one_line(text: str) -> str:
    """`text` on one line: white space of any kind becomes single spaces."""
    return printable(" ".join(text.split()))


def csv_cell(text: str) -> str:
    """`text` on one line that no spreadsheet takes for a formula: `=x` becomes `'=x`."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


def markdown_cell(text: str) -> str:
    """`text` as one cell of a Markdown table: no HTML, no links, no emphasis, no further cell."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def without_workflow_commands(text: str) -> str:
    """`text`, of the same length, in which a CI runner finds no command such as `::error::`."""
    return _WORKFLOW_COMMAND.sub("\\1\ufffd", text)
