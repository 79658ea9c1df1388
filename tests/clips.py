"""Video files for tests, written with PyAV. The brightness of a frame encodes its number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 4
"""Gray levels between one frame and the next."""


def write_clip(
    path: Path,
    frames: int = 40,
    *,
    times: Sequence[int] | None = None,
    rate: int = 10,
    keyframe_every: int = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    sound: bool = False,
    aspect: Fraction | None = None,
) -> Path:
    """Write frames 0, 1, 2, ... of rising brightness, with B-frames if the codec supports them.

    Args:
        path: its extension sets the container.
        frames: how many.
        times: when each is shown, in units of 1 / (100 * rate) seconds; evenly spaced by default.
        rate: frames per second.
        keyframe_every: frames between two keyframes.
        size: width and height.
        codec: FFmpeg's name of the encoder.
        sound: add a second of silence.
        aspect: width over height of a pixel.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuvj420p" if codec == "mjpeg" else "yuv420p", 4_000_000
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100 * rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if sound:
            _silence(container)
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 20 + STEP * number % 216, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = 100 * number if times is None else times[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file without pictures."""
    with av.open(str(path), "w") as container:
        _silence(container)
    return path


def number_of(image: Image.Image) -> int:
    """Which frame of a clip a picture is."""
    return round((float(np.asarray(image.convert("L")).mean()) - 20) / STEP)


def _silence(container: av.container.OutputContainer) -> None:
    stream = container.add_stream("aac", rate=8000)
    for start in range(0, 8000, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
