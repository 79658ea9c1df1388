"""The token grid lies over exactly what the processor hands to the model."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from foveate.draw.geometry import Box, processor_crop, seen_box
from foveate.errors import InputError

SIZES = [(336, 336), (640, 427), (427, 640), (1001, 333), (100, 37), (40, 900), (337, 336)]
RAW = {"do_normalize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def coordinates(size: tuple[int, int]) -> Image.Image:
    """A picture whose red and green say where a pixel is."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 0 * across], -1).round().astype(np.uint8))


def processed(processor: object, picture: Image.Image) -> np.ndarray:
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0) * 255  # type: ignore[operator]


def cut(picture: Image.Image, box: tuple[float, ...] | None, side: int) -> np.ndarray:
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box), dtype=float)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
        {"size": {"height": 336, "width": 336}, "do_center_crop": False},
    ],
    ids=["clip", "smaller crop", "squeezed"],
)
def test_the_box_of_a_processor_shows_what_the_processor_shows(settings: dict, size: tuple[int, int]) -> None:
    picture = coordinates(size)
    processor = CLIPImageProcessorPil(**settings, **RAW)
    seen = processed(processor, picture)
    ours = cut(picture, processor_crop(processor, size), seen.shape[0])
    middle = slice(4, -4)  # resizing a cut-out and cutting a resized picture differ at the very edge
    assert np.abs(seen - ours)[middle, middle, :2].max() <= max(1.5, 2 * 255 / min(size))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300)])
def test_the_box_of_a_padding_processor_reaches_beyond_the_picture(size: tuple[int, int]) -> None:
    processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    left, top, right, bottom = processor_crop(processor, size)
    assert (right - left, bottom - top) == (max(size), max(size))
    assert (left, top) == (-((max(size) - size[0]) // 2), -((max(size) - size[1]) // 2))


def test_what_does_not_fill_a_patch_is_not_seen() -> None:
    class Both:
        image_processor = CLIPImageProcessorPil(size={"shortest_edge": 384}, crop_size={"height": 384, "width": 384})
        patch_size = 14

    assert processor_crop(Both(), (384, 384)) == (0, 0, 378, 378)


def test_named_crops() -> None:
    assert seen_box((600, 400), "center-square", (24, 24)) == Box(100, 0, 500, 400)
    assert seen_box((600, 400), "pad-square", (24, 24)) == Box(0, -100, 600, 500)
    assert seen_box((600, 400), None, (24, 24)) == Box(0, 0, 600, 400)
    assert seen_box((600, 400), "auto", (24, 24)) == Box(100, 0, 500, 400)
    assert seen_box((600, 400), "auto", (20, 30)) == Box(0, 0, 600, 400)


@pytest.mark.parametrize("crop", ["middle", (0, 0, 0, 5), (700, 0, 800, 400), (1, 2, 3)])
def test_a_crop_that_shows_nothing_is_refused(crop: object) -> None:
    with pytest.raises(InputError, match="crop="):
        seen_box((600, 400), crop, (24, 24))  # type: ignore[arg-type]
