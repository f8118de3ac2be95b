"""Functions that mkdocs calls when it builds the site (`hooks` in mkdocs.yml)."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads this file by its path
import generate


def on_config(config: Any) -> Any:
    """Add the benchmarks' pages to the navigation, and unlisted pages at its end."""
    there = {path.name for path in generate.DOCS.glob("*.md")}
    nowhere = sorted(there - set(_named(config.nav)))
    made = [f"benchmarks/{name}.md" for name in ("index", *generate.benchmarks())]
    config.nav = [{"Benchmarks": made} if "Benchmarks" in item else item for item in config.nav]
    config.nav += nowhere
    return config


def _named(nav: Any) -> Iterator[str]:
    """The pages that a navigation lists."""
    for value in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(value, str):
            yield value
        elif value is not None:
            yield from _named(value)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated generate.pages."""
    from mkdocs.structure.files import File

    for path, text in generate.pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Redirect links to the README to the page generated from it."""
    if page.file.generated_by:
        return markdown
    return generate.relinked(
        markdown, {r"\.\./README\.md": "index.md", r"([\w-]+\.md|benchmarks/.*)": r"\1"}
    )
