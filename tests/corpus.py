"""Small harmless picture and video files of many kinds, made when a test needs them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import write_clip, write_sound
from PIL import Image, features

SIZE = (24, 16)


def picture(mode: str = "RGB") -> Image.Image:
    """Something with edges, of any mode of Pillow's."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    gray = ((rows * 16 + columns * 5) % 256).astype(np.uint8)
    image = Image.fromarray(np.stack([gray, 255 - gray, gray // 2], axis=-1))
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(gray.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 100)
    return image.convert(mode)


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file that claims a size, with chunks of any kind."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (header, *chunks, (b"IEND", b""))
    )


def icon(inside: bytes) -> bytes:
    """An icon file around a PNG or a bitmap without its file header."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def tiff(width: int, height: int, content: bytes = b"\x00" * 64) -> bytes:
    """A gray TIFF file that claims a size."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, len(content))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def animated(kind: str) -> bytes:
    """Three pictures in one file."""
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """With an EXIF orientation, which may be one that there is not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(kind, exif=exif)


READABLE: dict[str, Callable[[], bytes]] = {
    **{
        f"{kind}-{mode}": (lambda kind=kind, mode=mode: saved(kind, mode))
        for kind, modes in {  # type: ignore[misc]
            "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
            "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
            "WEBP": ("RGB", "RGBA"),
            "GIF": ("1", "L", "P", "RGB"),
            "BMP": ("1", "L", "P", "RGB", "RGBA"),
            "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
            "PPM": ("1", "L", "RGB", "I"),
            "TGA": ("L", "LA", "P", "RGB", "RGBA"),
            "ICO": ("L", "P", "RGB", "RGBA"),
        }.items()
        for mode in modes
    },
    **{f"animated-{kind}": (lambda kind=kind: animated(kind)) for kind in ("GIF", "WEBP", "PNG", "TIFF")},  # type: ignore[misc]
    **{
        f"turned-{kind}-{way}": (lambda kind=kind, way=way: turned(kind, way)) for kind in ("JPEG", "PNG", "WEBP", "TIFF") for way in (3, 6)
    },  # type: ignore[misc]
    **({"AVIF": lambda: saved("AVIF")} if features.check("avif") else {}),
    "a photograph with a preview": lambda: animated("MPO"),
    "turned nowhere": lambda: turned("JPEG", 99),
    "progressive": lambda: saved("JPEG", progressive=True),
    "lossless": lambda: saved("WEBP", lossless=True),
    "palette with transparency": lambda: saved("PNG", "P", transparency=bytes(range(256))),
    "color that is transparent": lambda: saved("PNG", transparency=(0, 255, 0)),
    "compressed TIFF": lambda: saved("TIFF", compression="tiff_lzw"),
    "bitmap in an icon": lambda: saved("ICO", bitmap_format="bmp"),
    "something after the end": lambda: saved("PNG") + b"more" * 50,
    "text with escapes": lambda: png(1, 1, (b"tEXt", b"Comment\0\x1b[31m"), (b"IDAT", zlib.compress(b"\0\1\2\3"))),
}
"""Picture files that must be read."""

REFUSED: dict[str, Callable[[], bytes]] = {
    "nothing but a signature": lambda: b"\x89PNG\r\n\x1a\n",
    "text": lambda: b"no picture at all\n" * 20,
    "zeros": lambda: bytes(300),
    "no pixels": lambda: png(0, 0),
    "no pixel data": lambda: png(16, 16),
    "pixel data that stops": lambda: png(64, 64, (b"IDAT", zlib.compress(bytes(100)))),
    "pixel data that is none": lambda: png(16, 16, (b"IDAT", b"\xff" * 40)),
    "a hundred megapixels": lambda: png(10_000, 10_000),
    "the largest PNG": lambda: png(2**31 - 1, 2**31 - 1),
    "a strip": lambda: png(60_000, 2),
    "an icon of a hundred megapixels": lambda: icon(png(10_000, 10_000)),
    "an icon of a damaged picture": lambda: icon(png(16, 16)),
    "an icon of nothing": lambda: icon(b""),
    "an icon without entries": lambda: struct.pack("<HHH", 0, 1, 0),
    "a TIFF of a hundred megapixels": lambda: tiff(10_000, 10_000),
    "a TIFF that stops": lambda: tiff(64, 64),
    "a TIFF without pixels": lambda: tiff(0, 0),
    "a bitmap of a hundred megapixels": lambda: saved("BMP")[:18] + struct.pack("<ii", 10_000, 10_000) + saved("BMP")[26:],
    "a bitmap of negative width": lambda: saved("BMP")[:18] + struct.pack("<i", -9) + saved("BMP")[22:],
    "a portable map of a hundred megapixels": lambda: b"P6 10000 10000 255\n",
    "a portable map without numbers": lambda: b"P6 many few 255\n",
    "a portable map of huge numbers": lambda: b"P5 " + b"9" * 40 + b" 1 255\n",
    "a WebP of a hundred megapixels": lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<I", 9999)[:3] * 2 + bytes(8),
    **{
        f"half a {kind}": (lambda kind=kind: saved(kind)[: len(saved(kind)) // 2])
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "ICO", "PPM")
    },  # type: ignore[misc]
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "PDF": lambda: b"%PDF-1.4\n%%EOF\n",
    "a PCX, which is not on the list": lambda: saved("PCX"),
}
"""Picture files that must be refused."""


def stream(
    codec: str, count: int = 5, *, size: tuple[int, int] = (64, 48), pixels: str = "yuv420p", rate: int = 25
) -> Callable[[Path], Path]:
    """How to write a video with PyAV; the file's extension sets the container."""

    def write(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            out = container.add_stream(codec, rate=rate)
            out.width, out.height, out.pix_fmt = *size, pixels
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 9 * number % 256, np.uint8), format="rgb24")
                container.mux(out.encode(frame.reformat(format=pixels)))
            container.mux(out.encode())
        return path

    return write


def renamed_codec(path: Path) -> Path:
    """An AVI file with an unknown codec."""
    data = write_clip(path, 5, codec="mpeg4").read_bytes()
    path.write_bytes(data.replace(b"FMP4", b"zZ9_"))
    return path


def latin_title(path: Path) -> Path:
    """A title that is not UTF-8."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf\u00e9 cr\u00e8me"
        out = container.add_stream("mpeg4", rate=10)
        out.width, out.height, out.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(out.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(out.encode())
    data = path.read_bytes()
    assert b"caf\xc3\xa9" in data
    path.write_bytes(data.replace(b"caf\xc3\xa9 cr\xc3\xa8me", b"caf\xe9\xe9 cr\xe8\xe8me"))
    return path


def grown(path: Path) -> Path:
    """A bare stream whose pictures grow on the way."""
    small = write_clip(path.with_name("small.h264"), 5).read_bytes()
    large = write_clip(path.with_name("large.h264"), 5, size=(320, 240)).read_bytes()
    for name in ("small.h264", "large.h264"):
        path.with_name(name).unlink()
    path.write_bytes(small + large)
    return path


def half(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The first half of a file."""

    def cut(path: Path) -> Path:
        data = write(path).read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return path

    return cut


def content(data: bytes) -> Callable[[Path], Path]:
    """A file of these bytes."""

    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


VIDEOS: dict[str, Callable[[Path], Path]] = {
    "a.flv": stream("flv"),
    "h264.flv": stream("libx264"),
    "a.mpg": stream("mpeg1video"),
    "mpeg2.mpg": stream("mpeg2video"),
    "a.vob": stream("mpeg2video"),
    "a.m2v": stream("mpeg2video"),
    "a.ts": stream("mpeg2video", 60),
    "h264.ts": stream("libx264"),
    "a.mp4": stream("libx264"),
    "mpeg4.mp4": stream("mpeg4"),
    "a.mov": stream("mjpeg", pixels="yuvj420p"),
    "10bit.mkv": stream("libx264", pixels="yuv420p10le"),
    "full.mkv": stream("libx264", pixels="yuv444p"),
    "lossless.mkv": stream("ffv1", pixels="bgr0"),
    "16bit.mkv": stream("ffv1", pixels="gray16le"),
    "a.webm": stream("libvpx-vp9"),
    "alpha.webm": stream("libvpx-vp9", pixels="yuva420p"),
    "a.ivf": stream("libvpx"),
    "a.avi": stream("mpeg4"),
    "huffyuv.avi": stream("huffyuv", pixels="yuv422p"),
    "a.wmv": stream("wmv2"),
    "a.nut": stream("mpeg4"),
    "a.gif": stream("gif", pixels="rgb8"),
    "a.apng": stream("apng", pixels="rgb24"),
    "a.h264": stream("libx264"),
    "odd.mkv": stream("ffv1", size=(33, 17)),
    "title.avi": latin_title,
    "grown.h264": grown,
    "square.mkv": lambda path: write_clip(path, 3, aspect=Fraction(2, 1)),
    "half.mkv": half(lambda path: write_clip(path, 40, keyframe_every=4)),
    "half.ts": half(stream("libx264", 40)),
    "half.mpg": half(stream("mpeg1video", 40)),
    "half.flv": half(stream("flv", 40)),
}
"""Video files that must be read."""

REFUSED_VIDEOS: dict[str, Callable[[Path], Path]] = {
    "codec.avi": renamed_codec,
    "half.mp4": half(stream("libx264")),
    "sound.mp4": write_sound,
    "empty.mpg": content(b"\x00\x00\x01\xba" + bytes(60)),
    "empty.flv": content(b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x00"),
    "header.avi": content(b"RIFF\x00\x00\x00\x00AVI "),
    "text.mp4": content(b"no video at all\n" * 40),
    "zeros.mpg": content(bytes(5000)),
    "list.m3u8": content(b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\na.ts\n#EXT-X-ENDLIST\n"),
    "list.ffconcat": content(b"ffconcat version 1.0\nfile a.ts\n"),
    "list.mpd": content(b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"/>'),
    "session.sdp": content(b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    "strip.mkv": lambda path: write_clip(path, 3, size=(256, 32), aspect=Fraction(30, 1)),
    "large.mkv": lambda path: write_clip(path, 3, size=(1600, 1600), aspect=Fraction(30, 1)),
}
"""Video files that must be refused."""
