"""Reading video files: the right frames at the right times, bounded memory, and clear errors."""

from __future__ import annotations

import builtins
import os
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from clips import number_of, write_clip, write_sound
from corpus import grown, latin_title, renamed_codec
from PIL import Image

from foveate import video
from foveate.errors import InputError, UnsupportedError
from foveate.files.limits import TooManyPixelsError
from foveate.video import is_video, read_frames

pytestmark = pytest.mark.one_version


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4"), ("a.ts", "libx264"), ("b.avi", "libx264")],
)
@pytest.mark.parametrize("frames", [1, 4, 40])
def test_frames_are_those_in_the_middle_of_equal_spans(tmp_path: Path, name: str, codec: str, frames: int) -> None:
    read = read_frames(write_clip(tmp_path / name, 40, codec=codec), frames)
    spans = 40 // frames
    expected = [number * spans + spans // 2 for number in range(frames)]
    assert [number_of(image) for image in read.images] == expected
    assert read.times == pytest.approx([number / 10 for number in expected], abs=2e-3)
    assert read.duration == pytest.approx(4, abs=2e-2)
    assert read.total == 40
    assert read.notes == ()


def test_no_more_is_decoded_than_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 200, keyframe_every=10)
    decoded = []
    frames = video._frames
    monkeypatch.setattr(video, "_frames", lambda *given: (decoded.append(1) or each for each in frames(*given)))
    read_frames(path, 2)
    assert 2 <= len(decoded) <= 2 * 10


def test_the_times_of_a_variable_rate_count_and_not_the_numbers(tmp_path: Path) -> None:
    """Ten frames in the first second, one that stays for eight, ten in the last."""
    times = [*range(0, 1000, 100), *range(9000, 10000, 100)]
    read = read_frames(write_clip(tmp_path / "a.mp4", 20, times=times), 10)
    assert [number_of(image) for image in read.images] == [5, 9, 15]
    assert read.times == pytest.approx([0.5, 0.9, 9.5])
    assert read.notes == ("3 frame(s) instead of 10: some frames are shown for long",)


def test_a_single_frame_is_one_picture(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.mp4", 1), 16)
    assert len(read.images) == 1
    assert read.times == (0.0,)
    assert read.notes == ("1 frame(s) instead of 16: the video has only 1 frame(s)",)


def test_more_frames_than_there_are_gives_each_once(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.mp4", 5), 64)
    assert [number_of(image) for image in read.images] == [0, 1, 2, 3, 4]


def test_a_video_that_begins_late_is_timed_from_its_first_frame(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.mkv", 10, times=range(5000, 6000, 100)), 5)
    assert [number_of(image) for image in read.images] == [1, 3, 5, 7, 9]
    assert read.times == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_a_stream_without_times_is_counted(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.h264", 20, keyframe_every=5), 4)
    assert [number_of(image) for image in read.images] == [2, 7, 12, 17]
    assert any("no time stamps" in note for note in read.notes)


def test_an_animation_is_a_video_too(tmp_path: Path) -> None:
    shades = [Image.new("L", (8, 8), 25 * number).convert("P") for number in range(10)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:], duration=100)
    assert [round(image.getpixel((0, 0))[0] / 25) for image in read_frames(tmp_path / "a.gif", 2).images] == [2, 7]


def test_sound_with_the_pictures_is_skipped(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.mp4", 10, sound=True), 2)
    assert [number_of(image) for image in read.images] == [2, 7]


def test_a_picture_turned_by_the_camera_is_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 3)
    data = path.read_bytes()
    track = data.index(b"tkhd")
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    start = data.index(one + zero * 3 + one, track)
    turned = zero + one + zero + (-(1 << 16)).to_bytes(4, "big", signed=True) + zero
    path.write_bytes(data[:start] + turned + data[start + 20 :])
    assert read_frames(path, 1).images[0].size == (48, 64)


def test_the_turn_is_to_the_right_side(tmp_path: Path) -> None:
    class Turned:
        rotation = -90

        def to_image(self) -> Image.Image:
            image = Image.new("RGB", (4, 2))
            image.putpixel((0, 0), (255, 0, 0))
            return image

    class Stream:
        sample_aspect_ratio = None

    assert video._upright(Turned(), Stream()).getpixel((1, 0)) == (255, 0, 0)  # clockwise: the upper left goes to the upper right


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    read = read_frames(write_clip(tmp_path / "a.mkv", 3, aspect=Fraction(2, 1)), 1)
    assert read.images[0].size == (128, 48)


def test_memory_holds_the_frames_asked_for_and_no_more(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 600, size=(320, 240), keyframe_every=100)
    tracemalloc.start()
    read = read_frames(path, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read.images) == 3
    assert peak < 40 * 320 * 240 * 3  # 600 frames would be fifteen times that


def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 100, keyframe_every=5)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    read = read_frames(path, 4)
    assert 20 <= read.total <= 80
    assert [number_of(image) for image in read.images] == pytest.approx([read.total * (2 * span + 1) / 8 for span in range(4)], abs=1.5)


def test_damage_inside_is_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", 40, codec="mjpeg", size=(320, 240))
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 3000):
        data[place] = 0xFF
    path.write_bytes(data)
    read = read_frames(path, 40)
    assert 30 <= len(read.images) <= 40


def broken_everywhere(path: Path) -> Path:
    data = bytearray(write_clip(path, 20).read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path.write_bytes(data)
    return path


REFUSED = {
    "missing": (lambda folder: folder / "nope.mp4", "no such video file"),
    "folder": (lambda folder: folder, "is a folder"),
    "address": (lambda folder: Path("https://example.org/a.mp4"), "is an address"),
    "empty": (lambda folder: written(folder / "a.mp4", b""), "is empty"),
    "text": (lambda folder: written(folder / "a.mp4", b"this is no video\n" * 99), "is not a video"),
    "cut off before its index": (lambda folder: written(folder / "b.mp4", write_clip(folder / "a.mp4").read_bytes()[:900]), "cut off"),
    "sound alone": (lambda folder: write_sound(folder / "a.mp4"), "no video stream (there is sound)"),
    "no frames": (lambda folder: write_clip(folder / "a.avi", 0, codec="mpeg4"), "a.avi"),
    "damaged throughout": (lambda folder: broken_everywhere(folder / "a.mp4"), "none of the"),
    "playlist": (lambda folder: written(folder / "a.m3u8", PLAYLIST), "a.m3u8"),
}
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nclip.ts\n#EXT-X-ENDLIST\n"


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, make, message: str) -> None:  # noqa: ANN001
    path = make(tmp_path)
    with pytest.raises(InputError) as refusal:
        read_frames(path, 4)
    assert message in str(refusal.value)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.ts")
    (tmp_path / "a.m3u8").write_bytes(PLAYLIST)
    with pytest.raises(InputError, match=r"a\.m3u8"):
        read_frames(tmp_path / "a.m3u8", 4)


@pytest.mark.parametrize("frames", [0, -1, 2.5, True, "4"])
def test_a_number_of_frames_that_is_none_is_refused(tmp_path: Path, frames: object) -> None:
    with pytest.raises(InputError, match="whole number"):
        read_frames(tmp_path / "a.mp4", frames)


def test_limits_are_checked_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 40)
    monkeypatch.setattr(video, "_decode", None)
    with pytest.raises(InputError, match=r"64 x 48, 0\.0 megapixels a frame; the limit is 0\.003"):
        read_frames(path, 4, max_pixels=3000)
    monkeypatch.setattr(video, "MAX_TOTAL_PIXELS", 20 * 64 * 48)
    with pytest.raises(InputError, match="at most 20 frames"):
        read_frames(path, 21)


def test_only_the_container_is_given_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV 15 ends the process where streams are given options and a format, such as FLV or MPEG, adds streams while it is read."""
    path = write_clip(tmp_path / "a.mp4", 3)
    given, opened = [], av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: given.append(options) or opened(*args, **options))
    read_frames(path, 1)
    assert len(given) == 2
    for options in given:
        assert not {"options", "stream_options"} & options.keys()
        assert options["container_options"]["protocol_whitelist"] == "file"


def test_pixels_that_are_not_square_count_as_they_are_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, aspect=Fraction(4, 1))
    assert read_frames(path, 1, max_pixels=256 * 48).images[0].size == (256, 48)
    with pytest.raises(TooManyPixelsError, match="256 x 48"):
        read_frames(path, 1, max_pixels=256 * 48 - 1)


def test_a_strip_that_a_processor_would_blow_up_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, size=(256, 32), aspect=Fraction(30, 1))
    with pytest.raises(InputError, match="7680 x 32: one side is 240 times the other, the limit is 100"):
        read_frames(path, 1)


def test_frames_that_grow_on_the_way_are_held_against_the_limit(tmp_path: Path) -> None:
    path = grown(tmp_path / "a.h264")
    assert {image.size for image in read_frames(path, 10).images} == {(64, 48), (320, 240)}
    with pytest.raises(InputError, match="320 x 240"):
        read_frames(path, 10, max_pixels=64 * 48)


def test_the_total_counts_frames_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grown(tmp_path / "a.h264")
    monkeypatch.setattr(video, "MAX_TOTAL_PIXELS", 10 * 64 * 48 + 100_000)  # enough for ten of the first frame's size
    with pytest.raises(InputError, match="ask for at most"):
        read_frames(path, 10)


def test_any_number_of_frames_can_be_asked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 5)
    for frames in (10**30, np.int64(64)):
        assert [number_of(image) for image in read_frames(path, frames).images] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), True, None, "64"])
def test_a_limit_that_limits_nothing_is_refused(tmp_path: Path, limit: object) -> None:
    with pytest.raises(InputError, match="max_pixels"):
        read_frames(write_clip(tmp_path / "a.mp4", 3), 1, max_pixels=limit)


def test_a_codec_without_a_decoder_is_refused(tmp_path: Path) -> None:
    path = renamed_codec(tmp_path / "a.avi")
    assert is_video(path)
    with pytest.raises(InputError, match="no decoder here"):
        read_frames(path, 1)


def test_a_title_that_is_not_utf8_is_no_damage(tmp_path: Path) -> None:
    assert len(read_frames(latin_title(tmp_path / "a.avi"), 3).images) == 3


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"a:b.mp4", b"http:x.mp4", b"%03d.mp4", b"concat:a|b.mp4", b"-i.mp4", b"a\x1b[31m\n.mp4"])
def test_a_file_is_read_whatever_it_is_called(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / os.fsdecode(name)
    write_clip(tmp_path / "a.mp4", 3).rename(path)
    assert len(read_frames(path, 3).images) == 3
    monkeypatch.chdir(tmp_path)
    if b"http:" not in name:  # which is refused as an address
        assert len(read_frames(path.name, 3).images) == 3


def test_a_file_without_an_index_to_jump_in_is_decoded_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 40, keyframe_every=5)
    opened = av.open

    class Unseekable:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def __enter__(self) -> Unseekable:
            return self

        def __exit__(self, *_: object) -> None:
            self._container.close()

        def seek(self, *_: object, **__: object) -> None:
            raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(av, "open", lambda *args, **options: Unseekable(opened(*args, **options)))
    assert [number_of(image) for image in read_frames(path, 4).images] == [5, 15, 25, 35]


def test_a_turn_that_reads_as_89_degrees_is_a_quarter(tmp_path: Path) -> None:
    frame = SimpleNamespace(rotation=-89, to_image=lambda: Image.new("RGB", (4, 2)))
    assert video._upright(frame, SimpleNamespace(sample_aspect_ratio=None)).size == (2, 4)


def test_videos_are_distinguished_from_other_files(tmp_path: Path) -> None:
    assert is_video(write_clip(tmp_path / "named.txt.mp4", 3))
    assert not is_video(write_sound(tmp_path / "b.mp4"))
    assert not is_video(written(tmp_path / "c.mp4", b"text"))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=r"pip install 'foveate\[video\]'"):
        read_frames(tmp_path / "a.mp4", 4)
    assert not is_video(tmp_path / "a.mp4")
