"""Prompt files contain the bytes that the model reads; filling is strict in both directions."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Generate, Loglikelihood, NextWord
from harness.errors import PromptError
from harness.plugins.registry import load_task
from harness.prompt import Prompt
from harness.runner import prepare
from harness.testing.golden import sample_job

Load = Callable[[bytes], Prompt]
NAMES = sorted(p.name for p in files("harness.prompts").iterdir() if p.name.endswith(".txt"))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Load:
    """Loads bytes as a prompt file of a package of its own."""

    def loaded(content: bytes) -> Prompt:
        package = f"prompts_of_{abs(hash(request.node.name))}"
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "some.txt").write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)
        return Prompt.load("some.txt", package=package)

    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_prompt_files(name: str) -> None:
    prompt = Prompt.load(name)
    content = (files("harness.prompts") / name).read_bytes()
    assert content.decode("utf-8") == prompt.template + "\n"
    assert prompt.template[-1] not in " \t", "the space belongs to the continuation"
    assert b"\r" not in content
    assert prompt.slots


def test_there_are_prompts() -> None:
    assert {"lambada.txt", "lambada-plain.txt", "cbt.txt"} <= set(NAMES)


@pytest.mark.parametrize(
    ("content", "template"),
    [(b"{a}\n", "{a}"), (b"{a}\n\n", "{a}\n"), (b"{a}", "{a}"), (b"\n{a} \n", "\n{a} ")],
)
def test_exactly_one_final_newline_goes(load: Load, content: bytes, template: str) -> None:
    assert load(content).template == template


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"a": "x"}, r"prompt 'p' has slots \['a', 'b'\], got \['a'\]"),
        ({"a": "x", "b": "y", "c": "z"}, r"has slots \['a', 'b'\], got \['a', 'b', 'c'\]"),
        ({}, r"got \[\]"),
    ],
)
def test_filling_is_strict(fields: dict[str, str], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        Prompt("p", "{a} and {b}").render(**fields)


@given(st.text(), st.text())
def test_data_stays_as_it_is(a: str, b: str) -> None:
    assert Prompt("p", "{{{a}}}: {b}|{a}").render(a=a, b=b) == "{" + a + "}: " + b + "|" + a


def test_braces_in_data() -> None:
    assert Prompt("p", "Q: {q}").render(q="{{a}} {b} {0}") == "Q: {{a}} {b} {0}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{a.b}", r"slots must be plain names, got \['a.b'\]"),
        (b"{}", r"slots must be plain names, got \[''\]"),
        (b"{a:>9}", r"slots must be plain names, got \['a'\]"),
        (b"{a!r}", r"slots must be plain names, got \['a'\]"),
        (b"{a", "prompt 'some.txt': .* write {{ and }} for literal braces"),
        (b"a } b", "prompt 'some.txt': Single '}'.* write {{ and }} for literal braces"),
    ],
)
def test_templates_that_are_refused(load: Load, content: bytes, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        load(content)


def test_missing_file() -> None:
    with pytest.raises(PromptError, match=r"prompt 'no\.txt' is not in package 'harness\.prompts'"):
        Prompt.load("no.txt")


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{a}\nTL;DR:", ("x", "\nTL;DR:")),
        ("News: {a} {{b}} {c}!", ("News: x", " {b} y", "!")),
        ("{a}", ("x", "")),
        ("{a}{c}", ("x", "y", "")),
    ],
)
def test_parts_end_after_each_slot(template: str, parts: tuple[str, ...]) -> None:
    prompt = Prompt("p", template)
    fields = {slot: {"a": "x", "c": "y"}[slot] for slot in prompt.slots}
    assert prompt.render_parts(**fields) == parts
    assert prompt.render(**fields) == "".join(parts)
    with pytest.raises(PromptError, match="prompt 'p' has slots"):
        prompt.render_parts(**fields, other="z")


# --- the model reads what the files say -----------------------------------------------------

USES = {
    "cbt.txt": ("cbt-cn", {"detok": "off"}),
    "cbt-lm-eval.txt": ("cbt-cn", {"prompt": "lm-eval", "detok": "off"}),
    "cbt-newline.txt": ("cbt-ne", {"join": "newline", "detok": "off"}),
    "cbt-query-only.txt": ("cbt-ne", {"context": "query-only", "detok": "off"}),
    "cnn-dm.txt": ("cnn-dm", {}),
    "cnn-dm-space.txt": ("cnn-dm", {"hint": "space"}),
    "cnn-dm-no-hint.txt": ("cnn-dm", {"hint": "none"}),
    "coqa.txt": ("coqa", {}),
    "coqa-blank.txt": ("coqa", {"between": "blank"}),
    "lambada.txt": ("lambada", {}),
    "lambada-plain.txt": ("lambada", {"newline": "off"}),
    "nq.txt": ("nq", {}),
    "nq-plain.txt": ("nq", {"style": "plain"}),
    "wmt14.txt": ("wmt14-fr-en", {}),
}
MARKS = "\u2460\u2461"  # in no sample


def texts(task: str, options: Mapping[str, str]) -> list[str]:
    """What the model reads, a text per request."""
    benchmark = load_task(task)
    job = sample_job(benchmark, benchmark.protocol("paper", options), 1)
    found = []
    for request in prepare(job).requests:
        match request:
            case Generate():
                found.append(request.prompt)
            case Loglikelihood():
                found.append(request.context + request.continuation)
            case NextWord():
                found.append(request.context)
    return found


def test_every_prompt_is_used() -> None:
    assert sorted(USES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_change_of_the_file_changes_what_the_model_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark at the beginning, before the last slot and at the end of the file: each is read."""
    task, options = USES[name]
    before = texts(task, options)
    template = Prompt.load(name).template
    start, slot, end = template.rpartition("{")
    edits = {
        "start": f"{MARKS}{template}",
        "last slot": f"{start}{MARKS}{slot}{end}",
        "end": f"{template}{MARKS}",
    }
    load_file = Prompt.load
    for edited in edits.values():
        monkeypatch.setattr(
            Prompt,
            "load",
            lambda file, *package, edited=edited: (
                Prompt(file, edited) if file == name else load_file(file, *package)
            ),
        )
        after = texts(task, options)
        assert all(MARKS in text for text in after)
        assert [text.replace(MARKS, "") for text in after] == before
    if "Q: " in template or " =" in template:  # few-shot pairs and turns are of the same file
        assert all(text.count(MARKS) > 1 for text in after[1:])


def test_digest_is_of_the_template() -> None:
    # printf abc | sha256sum
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Prompt("p", "abc").sha256 == known
