"""Read video files that may be anything: `read_frames` returns evenly spaced pictures, and never holds more than those in memory."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.errors import FoveateError, InputError, UnsupportedError
from foveate.files.limits import MAX_ASPECT, MAX_PIXELS, check_limit, check_size
from foveate.images import check_file

__all__ = ["VIDEO_FORMATS", "MAX_TOTAL_PIXELS", "Frames", "is_video", "read_frames"]

MAX_TOTAL_PIXELS = 600_000_000
"""Most pixels of all frames together: 1.8 GB as RGB."""

# Only self-contained formats: a playlist, for one, would make the reader open whatever it names.
VIDEO_FORMATS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "gif", "apng",
    "nut", "mxf", "h264", "hevc", "av1", "ivf", "m4v",
)  # fmt: skip
"""The formats that are read, by their FFmpeg names."""
FORMATS = VIDEO_FORMATS
"""The old name of `VIDEO_FORMATS`; removed in foveate 1.0."""

_DECODER_SLACK = 2**20
"""Pixels up to which the decoder's own limit stays off: it counts whole blocks, so its figure exceeds the picture's."""


@dataclass(frozen=True)
class Frames:
    """Pictures from a video, in order.

    Attributes:
        images: upright RGB pictures.
        times: seconds since the video's first frame, one per picture.
        duration: seconds from the first frame to the end of the last.
        total: frames in the file.
        path: the file.
        notes: what the user may want to know, one sentence each.
    """

    images: tuple[Image.Image, ...]
    times: tuple[float, ...]
    duration: float
    total: int
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _FrameTimes:
    """The display times of a file's frames in units of the stream's clock, ascending; found without decoding any frame.

    Without times (`timed` is false) the unit is a frame, whose length may be a guess.
    """

    shown: Sequence[int]
    keys: Sequence[int]
    duration: int
    timed: bool
    guessed: bool = False


def read_frames(path: str | Path, frames: int, *, max_pixels: float = MAX_PIXELS) -> Frames:
    """Read evenly spaced pictures: what is on screen in the middle of each of `frames` equal spans of time.

    A frame that is on screen at several of these times is taken once. So there are fewer pictures than requested if the file has fewer
    frames or shows some of them for long; a note says so. In addition to the pictures, memory holds 8 bytes per frame of the file.

    Args:
        path: a regular file in one of `VIDEO_FORMATS` with a video stream; of several streams, the one that players show is read.
        frames: how many pictures, at least 1.
        max_pixels: largest width times height, as shown with square pixels; a larger file is refused before it is decoded.

    Raises:
        InputError: the file is missing, empty, not a video, without frames, damaged beyond use, in an unknown codec, or beyond a limit.
            The message names the file, the value, the limit and the way out.
        UnsupportedError: PyAV is not installed.
    """
    path = Path(path)
    if isinstance(frames, bool) or not isinstance(frames, Integral) or frames < 1:
        raise InputError(f"frames={frames!r} must be a whole number from 1 upwards")
    check_limit("max_pixels", max_pixels)
    with _opened(path) as (container, stream):
        size = _size(path, stream)
        check_size(path, size, max_pixels, MAX_ASPECT, each=" a frame")
        index = _index(container, stream)
        if not index.shown:
            raise InputError(f"{path} has no frame that can be read; it is empty or damaged: save or download it again")
        wanted, clock = _wanted(index, int(frames)), _clock(stream, index)
    _check_total(path, len(wanted), len(wanted) * size[0] * size[1])
    found = _decode(path, index, wanted, max_pixels)
    if not found:
        raise InputError(f"{path} is damaged: none of the {len(wanted)} frames needed can be decoded; save or download it again")
    times = tuple((shown - index.shown[0]) * clock for shown in sorted(found))
    images = tuple(found[shown] for shown in sorted(found))
    return Frames(images, times, index.duration * clock, len(index.shown), path, tuple(_notes(index, frames, wanted, found)))


def is_video(path: str | Path) -> bool:
    """Whether PyAV finds a video stream in the file; false if it cannot open the file or is not installed."""
    try:
        with _opened(Path(path)):
            return True
    except (InputError, UnsupportedError):
        return False


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    av = _pyav()
    check_file(path, "video")
    try:
        # `options` would reach streams that a format adds while it is read, as FLV and MPEG do: PyAV 15 then ends the process.
        # An absolute path is never taken for an address. Nothing that the file names may be fetched, and no other format may be tried.
        allowed = {"protocol_whitelist": "file", "format_whitelist": ",".join(VIDEO_FORMATS)}
        with av.open(os.path.abspath(path), container_options=allowed, metadata_errors="replace") as container:
            covers = getattr(av.stream.Disposition, "attached_pic", 0)
            streams = [stream for stream in container.streams.video if not stream.disposition & covers]
            if not streams:
                sound = " (there is sound)" if container.streams.audio else ", or it is cut off"
                raise InputError(f"{path} has no video stream{sound}; pass a file with pictures in it")
            stream = container.streams.best("video")
            yield container, stream if stream in streams else streams[0]
    except FoveateError:
        raise
    except Exception as error:  # damaged data makes the reader raise anything, from its own errors to ZeroDivisionError
        raise InputError(
            f"{path} is not a video that can be read, or it is damaged or cut off ({_reason(error)}): save it again, or convert it to MP4, "
            f"WebM or MKV"
        ) from error


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise UnsupportedError(f"reading a video needs PyAV, which is not installed ({error}): pip install 'foveate[video]'") from error
    return av


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _size(path: Path, stream: Any) -> tuple[int, int]:
    """Width and height of the stream's pictures as they are shown."""
    codec = stream.codec_context
    if codec is None:
        raise InputError(f"{path} uses a video codec for which there is no decoder here; convert it to H.264 or VP9 first")
    return _square(codec.width, codec.height, stream)


def _square(width: int, height: int, stream: Any) -> tuple[int, int]:
    """Width and height once pixels are square."""
    aspect = stream.sample_aspect_ratio
    if width < 1 or not aspect or aspect < 0:
        return width, height
    return max(1, round(width * aspect)), height


def _check_total(path: Path, count: int, pixels: int) -> None:
    if pixels > MAX_TOTAL_PIXELS:
        raise InputError(
            f"{count} frames of {path} are {pixels / 1e6:.0f} megapixels; the limit is {MAX_TOTAL_PIXELS / 1e6:g}: "
            f"ask for at most {count * MAX_TOTAL_PIXELS // pixels} frames, or scale it down first"
        )


def _index(container: Any, stream: Any) -> _FrameTimes:
    """Read all packets, decode none."""
    shown, keys, last = array("q"), array("q"), 0
    # AVI records only the order in which frames are decoded, and a bare stream not even that
    timed = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
    for packet in _packets(container, stream):
        if packet.size == 0 or packet.is_discard:
            continue
        timed = timed and packet.pts is not None
        shown.append(packet.pts if timed else len(shown))
        if packet.is_keyframe:
            keys.append(shown[-1])
        last = packet.duration or last
    if not timed:  # frames are counted
        return _FrameTimes(range(len(shown)), (), len(shown), False, guessed=container.format.name != "avi")
    shown = array("q", sorted(set(shown)))
    if not last and len(shown) > 1:
        last = min(after - before for before, after in pairwise(shown))
    return _FrameTimes(shown, array("q", sorted(keys)), shown[-1] - shown[0] + max(last, 1) if shown else 0, True)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    av = _pyav()
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return  # a truncated file: everything before the cut is good


def _wanted(index: _FrameTimes, frames: int) -> list[int]:
    """The frames on screen in the middle of each span, each once."""
    # In units of 1 / (2 * frames), the times are odd multiples of the duration, so whole numbers decide. The work depends on the frames
    # in the file, however many are requested.
    span, wanted = index.duration, []
    for number, shown in enumerate(index.shown):
        start = 2 * frames * (shown - index.shown[0])
        end = 2 * frames * (index.shown[number + 1] - index.shown[0]) if number + 1 < len(index.shown) else 2 * frames * span
        moment = (2 * max(0, -((span - start) // (2 * span))) + 1) * span  # the first that is not before the frame
        if moment < min(end, 2 * frames * span):
            wanted.append(shown)
    return wanted


def _decode(path: Path, index: _FrameTimes, wanted: Sequence[int], max_pixels: float) -> dict[int, Image.Image]:
    """The wanted pictures by display time, without those that cannot be decoded."""
    found: dict[int, Image.Image] = {}
    pixels = 0
    for seek in (True, False) if len(index.keys) > 1 else (False,):
        # the pass without seeking is for files in which a seek ends in the wrong place, or at a frame that needs earlier ones
        missing = [shown for shown in wanted if shown not in found]
        if missing:
            with _opened(path) as (container, stream):
                # a stream may change its size midway; no decoder may allocate memory for what is far too large
                stream.codec_context.options = {"max_pixels": str(int(max(2 * max_pixels, _DECODER_SLACK)))}
                for shown, frame in _pick(container, stream, index, missing, seek):
                    width, height = _square(frame.width, frame.height, stream)
                    check_size(path, (width, height), max_pixels, MAX_ASPECT, each=" a frame")
                    pixels += width * height
                    _check_total(path, len(found) + 1, pixels)
                    found[shown] = _upright(frame, stream)
    return found


def _pick(container: Any, stream: Any, index: _FrameTimes, wanted: Sequence[int], seek: bool) -> Iterator[tuple[int, Any]]:
    """Decode no more than necessary: from the keyframe before a wanted frame, unless decoding is already past it."""
    targets, position = set(wanted), None
    frames = _frames(container, stream, index)
    for goal in wanted:
        if seek:
            key = index.keys[max(bisect_right(index.keys, goal) - 1, 0)]
            if key > (index.shown[0] if position is None else position):
                try:
                    container.seek(key, stream=stream)
                except _pyav().FFmpegError:
                    return  # this file does not support seeking; the pass without seeking finds everything
                frames = _frames(container, stream, index)
        while position is None or position < goal:
            shown, frame = next(frames, (None, None))
            if shown is None:
                return
            position = shown
            if shown in targets:
                yield shown, frame


def _frames(container: Any, stream: Any, index: _FrameTimes) -> Iterator[tuple[int, Any]]:
    """Decoded frames with their display times, in units of `_FrameTimes`."""
    av = _pyav()
    count = 0
    for packet in _packets(container, stream):
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            continue  # a damaged packet; the notes count the missing frames
        for frame in decoded:
            if not index.timed:
                yield count, frame
            elif frame.pts is not None:
                yield frame.pts, frame
            count += 1


def _upright(frame: Any, stream: Any) -> Image.Image:
    """The picture as a player shows it: rotated as the camera says, with square pixels."""
    image: Image.Image = frame.to_image()
    size = _square(image.width, image.height, stream)
    turns = round(frame.rotation / 90) % 4  # cameras record quarter turns; 89 degrees is a rounded one
    image = image if image.size == size else image.resize(size)
    return image.rotate(90 * turns, expand=True) if turns else image


def _clock(stream: Any, index: _FrameTimes) -> float:
    """Seconds per unit of `_FrameTimes`."""
    if index.timed:
        return float(stream.time_base)
    return 1 / float(stream.guessed_rate or stream.base_rate or 25)


def _notes(index: _FrameTimes, frames: int, wanted: Sequence[int], found: dict[int, Image.Image]) -> Iterator[str]:
    if len(wanted) < frames:
        why = f"the video has only {len(index.shown)} frame(s)" if len(index.shown) < frames else "some frames are shown for long"
        yield f"{len(wanted)} frame(s) instead of {frames}: {why}"
    if len(found) < len(wanted):
        yield f"the video is damaged: {len(wanted) - len(found)} of {len(wanted)} frames could not be decoded and are omitted"
    if index.guessed:
        yield "the video has no time stamps; its frames are assumed to be equally long"
