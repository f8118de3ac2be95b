"""Checkpoint formats that other packages bring, with and without faults."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from console import harness, refused

from harness.engine.checkpoint.formats.plugins import GROUP
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings

PLUGIN = """
import shutil
from pathlib import Path
from typing import NamedTuple

from harness.errors import CheckpointError

class Opened(NamedTuple):
    path: Path
    step: int = 9
    options: dict = {"shout": "no"}
    description: str = "a parcel"

    def key(self):
        return "parcel"

    def write(self, folder):
        shutil.copytree(Path(self.path.read_text().split()[1]), folder, dirs_exist_ok=True)

class Parcel:
    name = "parcel"
    options = {"shout": ("yes", "no")}

    def recognises(self, candidate):
        return candidate.start.startswith(b"PARCEL")

    def open(self, candidate, options):
        if b"damaged" in candidate.start:
            raise CheckpointError(f"{candidate.path} is damaged")
        return Opened(candidate.path)

    def is_complete(self, path):
        return None

class Boom(Parcel):
    def recognises(self, candidate):
        raise ValueError("boom")

class Renamed(Parcel):
    name = "letter"

class GGUF(Parcel):
    name = "GGUF"

PARCEL, BOOM, RENAMED, BUILT_IN, NUMBER = Parcel(), Boom(), Renamed(), GGUF(), 5
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a package with entry points `name = value`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def add(package: str, *points: str, source: str = PLUGIN) -> None:
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "\n".join(points) + "\n")
        (site / f"{package}.py").write_text(source)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return add


@pytest.fixture
def parcel(tmp_path: Path, tiny_folder: Path) -> Path:
    path = tmp_path / "model.parcel"
    path.write_text(f"PARCEL {tiny_folder}")
    return path


def words(model: Path, tmp_path: Path) -> list[object]:
    sample = ["--sample", "--limit", 2, "--device", "cpu", "--out", tmp_path / "out", "--json"]
    return ["lambada", "--model", model, *sample]


def test_a_format_of_another_package(install: Install, parcel: Path, tmp_path: Path) -> None:
    install("parcels", "parcel = parcels:PARCEL")
    result = harness(*words(parcel, tmp_path), "--model-option", "shout=no")
    assert result.code == 0, result.err
    assert '"step": 9' in result.out
    assert "a parcel; converting it, once" in result.err
    line = refused(*words(parcel, tmp_path), "--model-option", "shout=maybe")
    assert "expected one of yes, no" in line
    line = refused(*words(parcel, tmp_path), "--model-config", parcel)
    assert "has a config of its own" in line
    parcel.write_text("PARCEL damaged")
    assert refused(*words(parcel, tmp_path)).endswith("model.parcel is damaged")
    parcel.write_text("LETTER")
    line = refused(*words(parcel, tmp_path))
    assert "torch DCP, parcel, state dict): it begins with b'LETT'" in line


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (
            ["parcel = parcels:GONE"],
            "'parcel' from parcels:GONE (parcels) cannot be imported: Attr",
        ),
        (["parcel = parcels:NUMBER"], "is a int; expected an object with options and the methods"),
        (["parcel = parcels:Parcel"], "is a type; expected an object with options"),
        (["parcel = parcels:RENAMED"], "has the name 'letter'; expected that of its entry point"),
        (["GGUF = parcels:BUILT_IN"], "'GGUF' comes from this program and parcels:BUILT_IN"),
        (["parcel = parcels:BOOM"], "(parcels): recognises() failed: ValueError: boom"),
    ],
)
def test_a_faulty_format_is_named(
    points: list[str],
    expected: str,
    install: Install,
    parcel: Path,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    install("parcels", *points)
    assert expected in refused(*words(parcel, tmp_path))
    found = locate(str(tiny_folder), Settings(device="cpu"))
    assert found.folder == tiny_folder, "other checkpoints need no plugin"


def test_a_format_that_cannot_be_imported(install: Install, parcel: Path, tmp_path: Path) -> None:
    for number, source in enumerate(("import nosuchmodule", "raise SystemExit(1)", "1 // 0")):
        install(f"broken{number}", f"broken{number} = broken{number}:X", source=source)
    line = refused(*words(parcel, tmp_path))
    assert "'broken0' from broken0:X (broken0) cannot be imported: ModuleNotFoundError" in line
    assert "repair or uninstall it" in line


def test_two_formats_of_one_name(install: Install, parcel: Path, tmp_path: Path) -> None:
    install("parcels", "parcel = parcels:PARCEL")
    install("others", "parcel = others:PARCEL")
    line = refused(*words(parcel, tmp_path))
    assert "'parcel' comes from" in line
    assert "others:PARCEL (others)" in line
    assert "parcels:PARCEL (parcels)" in line
