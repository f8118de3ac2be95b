"""Hub data in fresh processes: from a cache of made-up files, and from a stub on this host.

The hub's libraries read their environment when they are first imported, hence the processes.
Rows are made up; each case says which bytes of the original file's form must come back.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from harness.core import Hub
from harness.data.load import download
from harness.errors import DataError
from harness.plugins.registry import load_task

LINES = b'{"text": "one two\\nthree"}\n{"text": "four five"}\n'
QUESTION = {
    "sentences": [f"Sentence {n} ." for n in range(1, 21)],
    "question": "`` The XXXXX ran , '' he said .",
    "answer": "cat",
    "options": ["a", "b", "c", "cat", "d", "e", "f", "g", "h", "i"],
}
CBT = (
    "".join(f"{n} Sentence {n} .\n" for n in range(1, 21))
    + "21 `` The XXXXX ran , '' he said .\tcat\t\ta|b|c|cat|d|e|f|g|h|i\n\n"
).encode()

# benchmark, what --set changes, columns of the parquet file, bytes of the original form
CASES: list[tuple[str, dict[str, str], dict[str, list[Any]], bytes]] = [
    (
        "wikitext2",
        {},
        # on the hub a line has its line end, but a blank one is the empty string
        {"text": ["", " = Title = \n", "", " One <unk> . \n", "", ""]},
        b" \n = Title = \n \n One <unk> . \n \n \n",
    ),
    (
        "wikitext103",
        {"file": "raw"},
        {"text": [" = É = \n", "", " é \u2028 . \n"]},
        " = É = \n \n é \u2028 . \n".encode(),
    ),
    ("ptb", {}, {"sentence": ["no it was", "N N"]}, b" no it was \n N N \n"),
    ("lm1b", {}, {"text": ["One , two .", '" Yes "']}, b'One , two .\n" Yes "\n'),
    ("cbt-cn", {}, {key: [value] * 2 for key, value in QUESTION.items()}, CBT * 2),
    ("cbt-ne", {"split": "test"}, {key: [value] for key, value in QUESTION.items()}, CBT),
    ("enwik8", {}, {"text": ["<a>\n  é&lt;\n</a>"]}, "<a>\n  é&lt;\n</a>".encode()),
    ("text8", {}, {"text": [" anarchism originated"]}, b" anarchism originated"),
    (
        "lambada",
        {"data": "original"},
        {"text": ["a b c", "d e"], "domain": [None, None]},
        b"a b c\nd e\n",
    ),
]


def hub_of(task: str, options: dict[str, str]) -> Hub:
    benchmark = load_task(task)
    hub = benchmark.source(benchmark.protocol("paper", options).options).hub
    assert hub is not None
    return hub


def parquet(columns: dict[str, list[Any]]) -> bytes:
    buffer = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def content_of_hub() -> dict[tuple[str, str, str], bytes]:
    """(repository, file, revision) -> bytes."""
    plain = hub_of("lambada", {})
    found = {(plain.repo, plain.file, plain.revision): LINES}
    for task, options, columns, _ in CASES:
        hub = hub_of(task, options)
        found[hub.repo, hub.file, hub.revision] = parquet(columns)
    return found


def fill_cache(home: Path) -> None:
    """Plain files are enough: no blobs, no links, no locks."""
    for (repo, file, revision), content in content_of_hub().items():
        root = home / "hub" / f"datasets--{repo.replace('/', '--')}"
        commit = revision if len(revision) == 40 else "0123456789" * 4
        target = root / "snapshots" / commit / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if commit != revision:
            ref = root / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)


LOAD = """
import json, sys
from harness.data.load import Where, load
from harness.errors import DataError
from harness.plugins.registry import load_task

for task, options in json.loads(sys.argv[1]):
    benchmark = load_task(task)
    source = benchmark.source(benchmark.protocol("paper", options).options)
    try:
        data = load(source, Where(hub=True))
        found = {**data.facts(), "first": {k: repr(v) for k, v in data.rows[0].fields.items()}}
    except DataError as error:
        found = {"error": str(error)}
    print("found", json.dumps(found))
# Its threads may abort the process when it ends, whatever has been printed.
assert "pyarrow.dataset" not in sys.modules, "Arrow's scanner has read the rows"
"""


def load_all(
    asked: list[tuple[str, dict[str, str]]], home: Path, **env: str
) -> list[dict[str, Any]]:
    """The rows of each benchmark from the hub, read in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.split("\n") if line.startswith("found ")]
    return [json.loads(line.removeprefix("found ")) for line in lines]


ASKED = [("lambada", {}), *((task, options) for task, options, _, _ in CASES)]
WANTED = [LINES, *(original for *_, original in CASES)]
ONLINE = [0, 1, len(CASES)]  # a plain file, parquet at a commit, parquet at a branch


def check(found: list[dict[str, Any]], cases: Sequence[int]) -> None:
    for case, facts in zip(cases, found, strict=True):
        (task, options), original = ASKED[case], WANTED[case]
        assert "error" not in facts, facts
        assert facts["bytes"] == len(original), task
        assert facts["sha256"] == hashlib.sha256(original).hexdigest(), task
        hub = hub_of(task, options)
        assert (facts["source"], facts["name"]) == ("hub", f"{hub.repo}/{hub.file}")
    assert found[0]["first"] == {"text": repr("one two\nthree")}
    assert found[0]["warnings"], "made-up rows are not the published ones"


def test_offline_from_the_cache(tmp_path: Path) -> None:
    fill_cache(tmp_path)
    check(load_all(ASKED, tmp_path, HF_HUB_OFFLINE="1"), range(len(ASKED)))


def test_offline_with_nothing_there(tmp_path: Path) -> None:
    [facts] = load_all([("lambada", {})], tmp_path, HF_HUB_OFFLINE="1")
    message = facts["error"]
    assert message.startswith(
        "the hub did not provide data/lambada_test.jsonl of EleutherAI/lambada_openai "
        "at 900124bf3b82 (LocalEntryNotFoundError: "
    )
    assert "\n" not in message


def test_a_table_without_the_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_of("ptb", {})
    file = tmp_path / "0000.parquet"
    file.write_bytes(parquet({"words": ["a b"]}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: str(file))
    with pytest.raises(DataError, match=f"^{hub.file} of {hub.repo} has no column 'sentence'$"):
        download(hub)


@pytest.fixture
def stub() -> Iterator[tuple[str, list[str]]]:
    """A hub with the made-up files and nothing else; and the paths that were requested."""
    known: dict[str, tuple[bytes, str]] = {}
    for (repo, file, revision), content in content_of_hub().items():
        commit = revision if len(revision) == 40 else "0123456789" * 4
        quoted = revision.replace("/", "%2F")
        known[f"/datasets/{repo}/resolve/{quoted}/{file}"] = (content, commit)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            asked.append(self.path)
            content, commit = known.get(self.path, (b"", ""))
            self.send_response(200 if commit else 404)
            self.send_header("Content-Length", str(len(content)))
            if commit:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_online_then_offline_from_the_same_cache(
    tmp_path: Path, stub: tuple[str, list[str]]
) -> None:
    endpoint, asked = stub
    online = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    check(load_all([ASKED[case] for case in ONLINE], tmp_path, **online), ONLINE)
    assert (
        f"/datasets/EleutherAI/lambada_openai/resolve/{hub_of('lambada', {}).revision}/data/"
        in (asked[0].removesuffix("lambada_test.jsonl"))
    )
    count = len(asked)
    [facts] = load_all([("lambada", {})], tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert facts["sha256"] == hashlib.sha256(LINES).hexdigest()
    assert len(asked) == count, "offline asks nobody"


def test_online_without_the_file(tmp_path: Path, stub: tuple[str, list[str]]) -> None:
    endpoint, asked = stub
    online = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    [facts] = load_all([("cbt-cn", {"split": "test"})], tmp_path, **online)
    assert asked, "the stub got requests"
    assert facts["error"].startswith(
        "the hub did not provide CN/test-00000-of-00001.parquet of cam-cst/cbt at 72b5c46b1248 ("
    )
    assert "NotFound" in facts["error"]
