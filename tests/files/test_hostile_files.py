"""Files of many kinds, whole and damaged, are read or refused with an error of foveate's, and none ends the process that reads it."""

from __future__ import annotations

from pathlib import Path

import corpus
import pytest
import reading_child
from reading_child import READ, REFUSED, outcomes

TESTS = Path(__file__).parents[1]


def written(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir()
    for name, make in files.items():
        made = make() if folder.name == "pictures" else make(folder / name)  # type: ignore[operator]
        if isinstance(made, bytes):
            (folder / name).write_bytes(made)
    return folder


def test_pictures_of_every_kind_are_read(tmp_path: Path) -> None:
    found = outcomes(written(tmp_path / "pictures", corpus.READABLE), "picture")
    assert {name: outcome for name, outcome in found.items() if outcome != READ} == {}
    assert found.keys() == corpus.READABLE.keys()


def test_damaged_huge_and_foreign_pictures_are_refused(tmp_path: Path) -> None:
    found = outcomes(written(tmp_path / "pictures", corpus.REFUSED), "picture")
    assert {name: outcome for name, outcome in found.items() if not outcome.startswith(REFUSED)} == {}
    assert found.keys() == corpus.REFUSED.keys()
    too_large = {name for name in found if "megapixels" in name or "largest" in name}
    assert {name: found[name] for name in too_large if "megapixels" not in found[name]} == {}


def test_videos_of_every_kind_are_read(tmp_path: Path) -> None:
    found = outcomes(written(tmp_path / "videos", corpus.VIDEOS), "video")
    assert {name: outcome for name, outcome in found.items() if outcome != READ} == {}
    assert found.keys() == corpus.VIDEOS.keys()


def test_damaged_huge_and_foreign_videos_are_refused(tmp_path: Path) -> None:
    found = outcomes(written(tmp_path / "videos", corpus.REFUSED_VIDEOS), "video")
    assert {name: outcome for name, outcome in found.items() if not outcome.startswith(REFUSED)} == {}
    assert found.keys() == corpus.REFUSED_VIDEOS.keys()


@pytest.mark.parametrize("kind", ["picture", "video"])
def test_a_picture_that_is_given_as_a_video_and_a_video_as_a_picture_end_no_process(tmp_path: Path, kind: str) -> None:
    folder = written(tmp_path / "pictures", corpus.READABLE) if kind == "video" else written(tmp_path / "videos", corpus.VIDEOS)
    assert all(outcome.startswith((READ, REFUSED)) for outcome in outcomes(folder, kind).values())


PICTURES = ("PNG-RGB", "PNG-P", "JPEG-RGB", "GIF-P", "BMP-RGB", "ICO-RGBA", "WEBP-RGBA", "TIFF-RGB", "PPM-RGB", "TGA-RGB")
CLIPS = ("a.mp4", "a.mkv", "a.flv", "a.mpg", "a.avi", "a.webm", "a.ts", "a.gif")


@pytest.mark.parametrize("kind", ["picture", "video"])
def test_files_with_flipped_bytes_or_cut_off_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    if kind == "picture":
        folder, examples = written(tmp_path / "pictures", {name: corpus.READABLE[name] for name in PICTURES}), 60
    else:
        made = {**corpus.VIDEOS, "a.mkv": corpus.stream("libx264")}
        folder, examples = written(tmp_path / "videos", {name: made[name] for name in CLIPS}), 40
    done = reading_child.run([str(TESTS / "mutating_child.py"), kind, str(folder), str(examples)])
    assert done.returncode == 0, done.stderr[-2000:]
    tried, good = map(int, done.stdout.split())
    assert tried > len(list(folder.iterdir())) * examples // 2
    assert 0 < good < tried
