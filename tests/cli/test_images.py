"""Picture files of every kind come out as upright RGB, or are refused with a reason."""

import contextlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image, ImageFile

from foveate.errors import InputError
from foveate.files.limits import TooManyPixelsError
from foveate.images import IMAGE_FORMATS, load_image

RED = (255, 0, 0)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IEND\xae\x42\x60\x82"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "LAB", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "x.tif", Image.new(mode, (6, 4)))
    loaded = load_image(path)
    assert loaded.image.mode == "RGB"
    assert loaded.image.size == (6, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA"])
def test_the_usual_formats_are_read_whatever_the_file_is_called(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "picture.dat", Image.new("RGB", (20, 10), RED), format=kind)
    assert np.abs(np.asarray(load_image(path).image, dtype=int) - RED).max() < 6
    assert kind in IMAGE_FORMATS


def test_sixteen_bit_gray_is_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 10, 257 * 200 + 100, 65535]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        loaded = load_image(save(tmp_path / name, Image.fromarray(values)))
        assert np.asarray(loaded.image)[0, :, 0].tolist() == [0, 10, 200, 255]


def test_floating_point_values_from_0_to_1_are_scaled(tmp_path: Path) -> None:
    path = save(tmp_path / "x.tif", Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)))
    assert np.asarray(load_image(path).image)[0, :, 0].tolist() == [0, 128, 255]


def test_other_ranges_are_stretched_and_that_is_said(tmp_path: Path) -> None:
    loaded = load_image(save(tmp_path / "x.tif", Image.fromarray(np.array([[-100, 0, 300]], dtype=np.float32))))
    assert np.asarray(loaded.image)[0, :, 0].tolist() == [0, 64, 255]
    assert "stretched" in loaded.notes[0]


def test_transparent_parts_become_white_and_that_is_said(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    loaded = load_image(save(tmp_path / "x.png", clear))
    assert loaded.image.getpixel((0, 0)) == RED
    assert loaded.image.getpixel((3, 3)) == (255, 255, 255)
    assert loaded.notes == ("the picture's transparent parts were laid on white",)


def test_an_opaque_alpha_channel_is_no_news(tmp_path: Path) -> None:
    loaded = load_image(save(tmp_path / "x.png", Image.new("RGBA", (4, 4), (255, 0, 0, 255))))
    assert loaded.notes == ()
    assert loaded.image.getpixel((0, 0)) == RED


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 255, 0, *([255, 0, 0] * 255)])
    palette.putpixel((0, 0), 1)
    loaded = load_image(save(tmp_path / "x.png", palette, transparency=0))
    assert loaded.image.getpixel((0, 0)) == RED
    assert loaded.image.getpixel((3, 3)) == (255, 255, 255)


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    loaded = load_image(save(tmp_path / "x.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95))
    red, green, blue = loaded.image.getpixel((4, 4))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15
    assert "CMYK" in loaded.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste(RED, (0, 0, 10, 10))  # red at the upper left
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(save(tmp_path / "x.png", stored, exif=exif))
    assert loaded.image.size == (40, 20)
    assert loaded.image.getpixel((2, 2)) == RED
    assert loaded.image.getpixel((30, 15)) == (255, 255, 255)
    assert "exif" not in loaded.image.info
    assert bool(loaded.notes) == (orientation != 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_in_one_file_the_first_is_taken_and_that_is_said(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = tmp_path / f"x.{kind.lower()}"
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:])
    loaded = load_image(path)
    red, green, blue = loaded.image.getpixel((4, 4))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15
    assert "only the first is used" in loaded.notes[0]


def test_a_hundred_megapixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(10_000, 10_000))  # it has no pixels: decoding it would fail with another message
    with pytest.raises(InputError, match=r"10000 x 10000, 100\.0 megapixels; the limit is 64.*8000 x 8000"):
        load_image(path)


def test_a_picture_beyond_pillows_own_limit_is_refused_by_ours(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"3600\.0 megapixels"):
        load_image(path)
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


@pytest.mark.parametrize("name", ["an icon of a hundred megapixels", "a WebP of a hundred megapixels"])
def test_a_format_whose_reader_decodes_at_once_is_held_to_the_limit_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(corpus.REFUSED[name]())  # without pixels: decoding would fail with another message
    with pytest.raises(TooManyPixelsError, match="more than 64 megapixels"):
        load_image(tmp_path / "x")


@pytest.mark.parametrize("kind", ["ICO", "WEBP"])
@pytest.mark.filterwarnings("error")
def test_such_a_format_is_read_up_to_the_limit_without_a_warning(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "x", Image.new("RGB", (40, 40), RED), format=kind, **({"sizes": [(40, 40)]} if kind == "ICO" else {}))
    assert load_image(path, max_pixels=1600).image.size == (40, 40)
    with pytest.raises(TooManyPixelsError):
        load_image(path, max_pixels=1599)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), True, None, "64"])
@pytest.mark.parametrize("name", ["max_pixels", "max_aspect"])
def test_a_limit_that_limits_nothing_is_refused(tmp_path: Path, name: str, limit: object) -> None:
    path = save(tmp_path / "x.png", Image.new("L", (9, 9)))
    with pytest.raises(InputError, match=name):
        load_image(path, **{name: limit})  # type: ignore[arg-type]


def test_the_limit_can_be_lowered_and_raised(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.new("L", (100, 100)))
    with pytest.raises(InputError, match="megapixels"):
        load_image(path, max_pixels=9_999)
    assert load_image(path, max_pixels=10_000).image.size == (100, 100)


def test_a_strip_that_a_processor_would_blow_up_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.new("L", (1, 5000)))
    with pytest.raises(InputError, match="5000 times the other"):
        load_image(path)
    assert load_image(path, max_aspect=6000).image.size == (1, 5000)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"a:b.png", b"%d.png", b"a\x1b[31m\n.png"])
def test_a_file_is_read_whatever_it_is_called(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(save(tmp_path / "x.png", Image.new("RGB", (4, 4), RED)).read_bytes())
    assert load_image(path).image.size == (4, 4)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    for path, reason in {
        tmp_path / "nope.png": "no such picture file",
        tmp_path / "empty.png" / "below": "no such picture file",
        tmp_path: "is a folder",
        tmp_path / "loop.png": "levels of symbolic links",
        tmp_path / "nowhere.png": "no such picture file",
        tmp_path / ("x" * 300): "name too long",
        "/dev/zero": "not a regular file",
        tmp_path / "pipe": "not a regular file",
        tmp_path / "empty.png": "empty",
        tmp_path / "text.png": "not a picture",
        tmp_path / "picture.svg": "not a picture",
        "https://example.org/x.png": "an address",
        "nul\0l.png": "cannot look at",
    }.items():
        with pytest.raises(InputError, match=reason):
            load_image(path)


@pytest.mark.parametrize("size", [(0, 0), (0, 5)])
def test_a_picture_without_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(InputError):
        load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, kind)
    path = tmp_path / "x"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(InputError, match=r"truncated|damaged|not a picture"):
        load_image(path)


def test_a_truncated_file_is_refused_where_another_library_made_pillow_lenient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    test_a_truncated_file_is_refused(tmp_path, "PNG")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, kind)
    dice = random.Random(0)
    for _ in range(40):
        damaged = bytearray(buffer.getvalue())
        for _ in range(dice.randrange(1, 10)):
            damaged[dice.randrange(min(len(damaged), 150))] = dice.randrange(256)
        path = tmp_path / "x"
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert load_image(path).image.mode == "RGB"
