"""Read picture files that may be anything: `load_image` returns a plain RGB picture and says what it had to convert."""

from __future__ import annotations

import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from foveate.errors import FoveateError, InputError
from foveate.files.limits import MAX_ASPECT, MAX_PIXELS, TooManyPixelsError, check_limit, check_size

__all__ = [
    "IMAGE_FORMATS",
    "MAX_ASPECT",
    "MAX_PIXELS",
    "LoadedImage",
    "check_file",
    "decode_image",
    "is_picture",
    "load_image",
    "plain_image",
]

# Only raster formats that Pillow decodes by itself: EPS, for one, would start an external interpreter on the file.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "TGA", "ICO")
FORMATS = IMAGE_FORMATS
"""The old name of `IMAGE_FORMATS`; removed in foveate 1.0."""

_EAGER = ("WEBP", "ICO")
"""Formats whose Pillow reader allocates or decodes the picture when a file is opened; the others only read the header."""

_UPRIGHT = 1
_pillow_globals = threading.Lock()


@dataclass(frozen=True)
class LoadedImage:
    """A decoded picture.

    Attributes:
        image: upright RGB picture.
        path: the file it comes from.
        notes: conversions that the user may want to know about, one sentence each.
    """

    image: Image.Image
    path: Path
    notes: tuple[str, ...] = ()


def load_image(path: str | Path, *, max_pixels: float = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> LoadedImage:
    """Read a picture file as upright 8-bit RGB.

    Transparent parts are laid on white, 16-bit values are scaled, and the EXIF orientation is applied. Of an animation or a multi-page
    file, the first picture is used. The notes say so.

    Args:
        path: a regular file in one of `IMAGE_FORMATS`.
        max_pixels: largest width times height; a larger file is refused before it is decoded.
        max_aspect: largest ratio of the longer to the shorter side.

    Raises:
        InputError: if the file is missing, not a regular file, empty, not a picture, damaged, without pixels, or beyond a limit. The
            message names the file, the value, the limit and the way out.
    """
    path = Path(path)
    check_file(path, "picture")
    return _load(path, path, max_pixels, max_aspect)


def decode_image(data: bytes, name: str, *, max_pixels: float = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> LoadedImage:
    """Like `load_image`, for the content of a picture file, as data sets embed it.

    Args:
        data: the content of the file.
        name: what messages call it.
        max_pixels: as in `load_image`.
        max_aspect: as in `load_image`.

    Raises:
        InputError: as in `load_image`.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"{name} holds {type(data).__name__} where the bytes of a file belong")
    if not data:
        raise InputError(f"{name} is empty (0 bytes)")
    return _load(Path(name), io.BytesIO(data), max_pixels, max_aspect)


def plain_image(image: Image.Image, name: str, *, max_pixels: float = MAX_PIXELS, max_aspect: float = MAX_ASPECT) -> LoadedImage:
    """Like `load_image`, for a picture that is already open; it is not changed.

    Args:
        image: of any mode.
        name: what messages call it.
        max_pixels: as in `load_image`.
        max_aspect: as in `load_image`.

    Raises:
        InputError: as in `load_image`.
    """
    path = Path(name)
    check_limit("max_pixels", max_pixels)
    check_limit("max_aspect", max_aspect)
    check_size(path, image.size, max_pixels, max_aspect)
    notes: list[str] = []
    with _undecodable(path):
        return LoadedImage(_to_rgb(_upright(image.copy(), notes), notes), path, tuple(notes))


def _load(path: Path, source: Path | io.BytesIO, max_pixels: float, max_aspect: float) -> LoadedImage:
    check_limit("max_pixels", max_pixels)
    check_limit("max_aspect", max_aspect)
    with _pillow_on_our_terms():
        picture = _open(path, source, max_pixels)
        with picture:
            check_size(path, picture.size, max_pixels, max_aspect)
            with _undecodable(path), _pillow_limit(path, max_pixels):
                first, notes = _first_frame(picture)
    check_size(path, first.size, max_pixels, max_aspect)  # headers may lie
    with _undecodable(path):
        return LoadedImage(_to_rgb(_upright(first, notes), notes), path, tuple(notes))


def is_picture(path: str | Path) -> bool:
    """Whether Pillow knows the file's format; the pixels may still be damaged. False if there is no file."""
    try:
        check_file(Path(path), "picture")
        with _pillow_on_our_terms():
            _open(Path(path), Path(path), MAX_PIXELS).close()
    except TooManyPixelsError:
        return True
    except InputError:
        return False
    return True


def flat(images: Any) -> Iterator[Any]:
    """The images in a processor's argument, in order: a single image, lists nested to any depth, or `None` for none."""
    if isinstance(images, list | tuple):
        for image in images:
            yield from flat(image)
    elif images is not None:
        yield images


def check_file(path: Path, what: str) -> None:
    """Check that there is a regular file with something in it.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        InputError: there is none.
    """
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise InputError(f"{path} is an address, not a file; download the {what} first and pass its path")
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such {what} file: {path}") from None
    except (OSError, ValueError) as error:  # circular links, a name that is too long, a name with a null byte
        raise InputError(f"cannot look at {str(path)!r:.200}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder; pass one {what} file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file (a pipe or device); save the {what} to a file first")
    if status.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")


@contextmanager
def _pillow_on_our_terms() -> Iterator[None]:
    """A global of Pillow, which other libraries set, decides whether half a file passes for a picture; here it does not."""
    with _pillow_globals:
        lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


@contextmanager
def _pillow_limit(path: Path, pixels: float | None) -> Iterator[None]:
    """Pillow's own limit, another global, warns at one size and raises at twice that size; here it raises at ours and never warns."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None if pixels is None else pixels / 2  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except Image.DecompressionBombError as error:
        limit = f"{(pixels or 0) / 1e6:g} megapixels, which is the limit"
        raise TooManyPixelsError(f"{path} may need more than {limit}: scale it down, or raise max_pixels") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _undecodable(path: Path) -> Iterator[None]:
    try:
        yield
    except FoveateError:
        raise
    except Exception as error:  # decoders raise anything on damaged data, from struct.error to OverflowError
        raise InputError(f"{path} is truncated or damaged and cannot be decoded ({_reason(error)}); save or download it again") from error


def _open(path: Path, source: Path | io.BytesIO, max_pixels: float) -> Image.Image:
    """The picture, not decoded yet unless its format is in `_EAGER`, in which case it has at most `max_pixels`."""
    Image.init()
    there = [name for name in IMAGE_FORMATS if name in Image.OPEN]  # some builds of Pillow come without AVIF or WebP
    lazy, eager = [name for name in there if name not in _EAGER], [name for name in there if name in _EAGER]
    for formats, limit in ((lazy, None), (eager, max_pixels)):
        try:
            with _pillow_limit(path, limit):
                return Image.open(source, formats=formats)
        except UnidentifiedImageError:
            continue
        except PermissionError as error:
            raise InputError(f"{path} may not be read: permission denied") from error
        except FoveateError:
            raise
        except Exception as error:  # a hostile header can make any reader raise anything
            raise InputError(f"{path} has a damaged header: {_reason(error)}") from error
    raise InputError(f"{path} is not a picture that can be read; known formats are {', '.join(IMAGE_FORMATS)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _first_frame(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The decoded first picture of the file, which may hold several."""
    notes: list[str] = []
    # a phone's MPO holds previews and depth maps with the photograph: not worth a note
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        kind = "pages" if picture.format == "TIFF" else "frames"
        notes.append(f"the picture has several {kind}; only the first is used")
        picture.seek(0)
    picture.load()
    return picture.copy(), notes


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112, _UPRIGHT)
        turned = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged metadata does not mean damaged pixels
        notes.append(f"the picture's EXIF metadata is damaged and was ignored ({error})")
        return image
    if orientation != _UPRIGHT and turned is not None:
        notes.append("the picture was turned upright, as its EXIF orientation says")
    return turned if turned is not None else image


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return _bare(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _deep_gray(image, notes).convert("RGB")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        return _on_white(image, notes)
    if image.mode == "CMYK":
        notes.append("the picture was converted from CMYK without its colour profile; colours are approximate")
    return _bare(image.convert("RGB"))


def _bare(image: Image.Image) -> Image.Image:
    """The picture without metadata, so that no orientation or transparency is applied a second time."""
    image.info = {}
    return image


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):
        return _bare(layered.convert("RGB"))
    notes.append("the picture's transparent parts were laid on white")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _deep_gray(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert gray with more than 8 bits to 8 bits. Pillow's own conversion clips every value at 255, which makes the picture white."""
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = (float(value) for value in image.convert("F").getextrema())  # type: ignore[arg-type]
        if not (math.isfinite(low) and math.isfinite(high)) or (image.mode == "F" and low >= 0 and high <= 1):
            low, high = 0.0, 1.0
        elif low >= 0 and high <= 255:
            low, high = 0.0, 255.0
        elif image.mode == "I" and low >= 0 and high <= 65535:
            low, high = 0.0, 65535.0
        else:
            notes.append(f"the picture's values {low:g}..{high:g} were stretched to 0..255")
    scale = 255.0 / (high - low) if high > low else 0.0
    # point() on mode F takes exactly this form, scale * value + offset; adding a half turns the truncation in convert("L") into rounding
    return image.convert("F").point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
