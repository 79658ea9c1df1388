"""Files exist whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import killed_at, with_little_room
from PIL import Image

from foveate.errors import FoveateError, WriteError
from foveate.files.writing import (
    append_line,
    clear,
    leftovers,
    make_folder,
    whole,
    whole_folder,
    write_picture,
    write_whole,
)
from foveate.report import Report

OLD, NEW = "old " * 20_000, "new " * 30_000
ROOM = 50_000

noise = Image.effect_noise((400, 300), 90).convert("RGB")
WAYS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_whole(path, NEW),
    "jpg": lambda path: write_picture(path, noise),
    "png": lambda path: write_picture(path, noise),
    "webp": lambda path: write_picture(path, noise.resize((1600, 1200))),
    "json": lambda path: Report(columns=((1,) * 40_000,)).save(path),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(way: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{way}"
    path.write_text(OLD)
    told = with_little_room(ROOM, lambda: WAYS[way](path))
    assert told.startswith(f"WriteError: cannot write {path}: File too large")
    assert "\n" not in told
    assert path.read_text() == OLD
    assert os.listdir(tmp_path) == [path.name]
    WAYS[way](path)
    assert path.stat().st_size > ROOM


def test_a_jpeg_whose_last_bytes_have_no_room_is_not_reported_as_written(tmp_path: Path) -> None:
    path = tmp_path / "kept.jpg"
    write_picture(path, noise)
    whole_one = path.read_bytes()
    with Image.open(path) as read:
        read.load()
    told = with_little_room(len(whole_one) - 200, lambda: write_picture(path, Image.effect_noise(noise.size, 90).convert("RGB")))
    assert told.startswith(f"WriteError: cannot write {path}: File too large")
    assert path.read_bytes() == whole_one
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("before", [OLD, None], ids=["over a file", "new"])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(before: str | None, tmp_path: Path) -> None:
    found = []
    for step in range(9):
        path = tmp_path / str(step) / "file.txt"
        path.parent.mkdir()
        if before is not None:
            path.write_text(before)
        if not killed_at(step, lambda path=path: write_whole(path, NEW)):
            break
        found.append(path.read_text() if path.exists() else None)
        write_whole(path, "next")
        assert os.listdir(path.parent) == [path.name]
        assert path.read_text() == "next"
    assert set(found) == {before, NEW}


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def replaced(old: Any, new: Any) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole(tmp_path / "file", NEW)
    assert done == ["file", "replace", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_whatever_the_system_refuses_is_named_with_file_and_reason(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(OLD)

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError) as caught:
        write_whole(tmp_path / "file", NEW)
    assert isinstance(caught.value, FoveateError)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'file'}: {os.strerror(number)}")
    assert (tmp_path / "file").read_text() == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_of_whoever_writes_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with whole(tmp_path / "file") as unfinished:
            unfinished.write_text("half")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert os.listdir(tmp_path) == []


def test_what_a_dead_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "kept.png"
    with whole(path) as unfinished:
        unfinished.write_text("mine")
        stem = unfinished.name.rpartition(".part")[0].rpartition(".")[0]
        host = unfinished.name.removeprefix(stem + ".").partition("-")[0]
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        dead = tmp_path / f"{stem}.{host}-{gone.pid}-0.part"
        elsewhere = tmp_path / f"{stem}.{'0' * 8}-{gone.pid}-0.part"
        foreign = tmp_path / ".kept.png.part"
        for file in (dead, elsewhere, foreign):
            file.write_text("half")
        write_whole(path, "another")
        assert not dead.exists()
        assert unfinished.exists()
    assert path.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, elsewhere.name, foreign.name])
    clear(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, foreign.name])


def test_a_link_stays_one_and_another_name_of_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    file, soft, hard = (tmp_path / name for name in ("file", "soft", "hard"))
    file.write_text(OLD)
    file.chmod(0o640)
    soft.symlink_to(file.name)
    hard.hardlink_to(file)
    write_whole(soft, NEW)
    assert soft.is_symlink()
    assert file.read_text() == NEW
    assert file.stat().st_mode & 0o777 == 0o640
    assert hard.read_text() == OLD


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    assert Path("/dev/null").is_char_device()
    write_whole("/dev/null", NEW)
    assert Path("/dev/null").is_char_device()
    with pytest.raises(WriteError, match="cannot write /dev/full: No space left on device"):
        write_whole("/dev/full", NEW)
    assert Path("/dev/full").is_char_device()


def test_a_name_as_long_as_any_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".json")
    write_whole(path, NEW)
    assert path.read_text() == NEW


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, "first")
    append_line(path, "second")
    assert path.read_text() == "first\nsecond\n"
    path.write_text("first\nsecond\n{half a li")
    append_line(path, "third")
    assert path.read_text() == "first\nsecond\nthird\n"
    told = with_little_room(len("first\nsecond\nthird\n") + 3, lambda: append_line(path, "fourth"))
    assert told.startswith(f"WriteError: cannot write {path}")
    assert path.read_text() == "first\nsecond\nthird\n"


def weights(folder: Path, content: str) -> None:
    with whole_folder(folder) as unfinished:
        for name in ("config.json", "model.bin", "more/words.txt"):
            make_folder((unfinished / name).parent)
            (unfinished / name).write_text(content)


def test_a_new_folder_appears_in_one_step(tmp_path: Path) -> None:
    seen = []
    for step in range(20):
        folder = tmp_path / str(step) / "weights"
        folder.parent.mkdir()
        if not killed_at(step, lambda folder=folder: weights(folder, NEW)):
            break
        seen.append(sorted(path.name for path in folder.rglob("*") if path.is_file()))
        clear(folder.parent)
        assert set(os.listdir(folder.parent)) <= {"weights"}
    assert [] in seen
    assert all(names in ([], ["config.json", "model.bin", "words.txt"]) for names in seen)


def test_in_a_folder_that_is_there_each_file_is_replaced_whole_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    weights(folder, OLD)
    (folder / "README.md").write_text("card")
    told = with_little_room(ROOM, lambda: weights(folder, NEW))
    assert told.startswith(f"WriteError: cannot write {folder}: File too large")
    assert (folder / "model.bin").read_text() == OLD
    assert os.listdir(tmp_path) == ["weights"]
    weights(folder, NEW)
    assert {path.read_text() for path in folder.rglob("*") if path.is_file()} == {NEW, "card"}
    assert not list(leftovers(tmp_path))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WriteError, match=f"cannot write {path}: "):
            make_folder(path)
