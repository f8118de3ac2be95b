"""The glossary names modules and attributes that exist."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from harness.engine.checkpoint.formats import plugins as formats
from harness.engine.checkpoint.own import function as models

TEXT = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`(harness(?:\.\w+)+)`", TEXT)) - {formats.GROUP, models.GROUP})


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or attributes of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            fields = getattr(value, "__dataclass_fields__", {})
            if attribute not in fields and not hasattr(value, attribute):
                return False
            value = getattr(value, attribute, None)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_glossary_exists(name: str) -> None:
    assert exists(name)


def test_there_are_names_and_wrong_ones_do_not_exist() -> None:
    assert len(NAMES) > 20
    assert not exists("harness.core.Sauce")
    assert not exists("harness.task.Task.faults")


def test_every_term_has_one_line() -> None:
    terms = re.findall(r"^\| ([^|]+) \|", TEXT, re.MULTILINE)[2:]
    assert len(terms) == len(set(terms)) > 25
