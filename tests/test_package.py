"""Wheel and sdist contain what the repository has, package data included; an sdist builds the same wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.project

ROOT = Path(__file__).parent.parent
IGNORED = ("__pycache__", ".mypy_cache", ".ruff_cache")


def build(root: Path, target: str, folder: Path) -> Path:
    """Build one package, without a network: the backend is installed."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def tracked() -> dict[str, bytes]:
    """What the repository has under foveate/; outside git, all that lies there."""
    done = subprocess.run(["git", "ls-files", "-z", "foveate"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = done.stdout.split("\0")[:-1] if done.returncode == 0 else []
    found = [ROOT / name for name in names] or [file for file in (ROOT / "foveate").rglob("*") if not {*file.parts} & {*IGNORED}]
    return {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in found if file.is_file()}


def inside(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


def test_the_wheel_has_every_tracked_file_and_no_other(wheel: Path) -> None:
    expected, found = tracked(), inside(wheel)
    assert sorted(found) == sorted(expected)
    assert not [name for name in found if found[name] != expected[name]]
    kinds = {Path(name).suffix or Path(name).name for name in found}
    assert kinds >= {".py", ".safetensors", ".json", ".jsonl", ".jinja", ".yaml", ".typed"}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= set(names)
        metadata = archive.read(names["METADATA"]).decode()
        entry_points = archive.read(names["entry_points.txt"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    assert "foveate = foveate.cli:main" in entry_points
    assert "foveate.plugins.lmms_eval:manifests" in entry_points


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (root,) = (tmp_path / "source").iterdir()
    assert (root / "tests" / "test_package.py").is_file()
    assert (root / "CONTRIBUTING.md").is_file()
    assert inside(build(root, "wheel", tmp_path / "built")) == inside(wheel)
