"""Files written whole or not at all: links, pipes, modes, and what killed processes leave."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError
from harness.files import atomic
from harness.files.atomic import (
    STALE_SECONDS,
    locked,
    process_mark,
    remove_leftovers,
    replace_content,
    temporary_path,
)
from harness.files.output import check_file, check_writable


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_new_file_has_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    replace_content(tmp_path / "new", b"x")
    assert mode(tmp_path / "new") == 0o666 & ~umask


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o755])
def test_an_old_file_keeps_its_mode(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(bits)
    replace_content(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", bits)


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "target").write_bytes(b"old")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to("far/target")
    (tmp_path / "to-be").symlink_to("far/not-yet")
    replace_content(tmp_path / "one", b"new")
    check_file(tmp_path / "to-be", "--junit")
    assert not (tmp_path / "far" / "not-yet").exists(), "a check leaves nothing behind"
    replace_content(tmp_path / "to-be", b"first")
    assert all((tmp_path / name).is_symlink() for name in ("one", "two", "to-be"))
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["not-yet", "target"]
    assert (tmp_path / "far" / "target").read_bytes() == b"new"
    assert (tmp_path / "far" / "not-yet").read_bytes() == b"first"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    replace_content(pipe, b"through")
    reader.join(10)
    assert got == [b"through"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_is_no_file_to_replace(to: str, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom harness.files.output import check_file, write_bytes\n"
        "path = Path('/dev/stdout')\ncheck_file(path, '--junit')\n"
        "print('before', flush=True)\nwrite_bytes(path, b'<xml/>\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as file:
        out = file if to == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    found = done.stdout if to == "pipe" else (tmp_path / "out").read_bytes()
    assert found == b"before\n<xml/>\nafter\n"
    assert Path("/dev/stdout").is_symlink()


# --- what killed processes leave --------------------------------------------------------------


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    host = process_mark().partition("-")[0]
    dead = f"{host}-{gone()}-00000000"
    old_of_another_host, new_of_another_host = (
        ".00000001-1-00000000.tmp",
        ".00000002-1-00000000.tmp",
    )
    goes = [
        f".{dead}.tmp",
        f"converting-{dead}-ab_c",
        old_of_another_host,
        "digests.77.tmp",
        ".abcd_123.tmp",
    ]
    stays = [
        temporary_path(tmp_path).name,
        f"converting-{process_mark()}-abcd",
        new_of_another_host,
        "converting-abcdefgh",
        ".efgh_123.tmp",
        "record.json",
        ".hidden",
        f"{dead}.tmp",
        f".{dead}.tmp.gz",
    ]
    for name in [*goes, *stays]:
        path = tmp_path / name
        if name.startswith("converting"):
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"x")
        else:
            path.write_bytes(b"x")
    for name in [*goes, "record.json", ".hidden"]:
        old = time.time() - STALE_SECONDS - 60
        os.utime(tmp_path / name, (old, old))
    remove_leftovers(tmp_path, "digests.*.tmp", ".????????.tmp", "converting-????????")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stays)


def test_a_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert atomic._is_running(1)


def test_a_folder_that_is_not_there_is_swept_without_a_word(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("start", ["another file", "the check before a run"])
def test_a_killed_write_leaves_the_old_file_and_is_swept(start: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from harness.files.atomic import replace_content\n"
        "os.fsync = lambda handle: os._exit(9)\nreplace_content(Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    if start == "another file":
        replace_content(tmp_path / "file", b"new")
    else:
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_of_digests_and_converted_models_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    model = tmp_path / "damaged.gguf"
    model.write_bytes(b"GGUF" + bytes(20))
    left = [tmp_path / "digests.77.tmp", tmp_path / "converted" / "converting-abc_1234"]
    host = process_mark().partition("-")[0]
    left.append(tmp_path / "converted" / f"converting-{host}-{gone()}-0badcafe-x")
    for path in left:
        path.mkdir(parents=True)
        os.utime(path, (0, 0))
    left[0].rmdir()
    left[0].touch()
    os.utime(left[0], (0, 0))
    with pytest.raises(CheckpointError):
        locate(str(model), Settings())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "converted", "damaged.gguf", "digests.json",
    ]  # fmt: skip


# --- locks --------------------------------------------------------------------------------------


def test_a_lock_is_held_once_and_waited_for_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "LOCK_TIMEOUT", 0.1)
    with locked(tmp_path) as first:
        with locked(tmp_path) as second:
            assert (first, second) == (True, False)
        with locked(tmp_path) as third:
            assert not third, "what did not get the lock does not let go of it"
    with locked(tmp_path) as again:
        assert again
    with locked(tmp_path / "nowhere") as nothing:
        assert not nothing
    assert list(tmp_path.iterdir()) == []
