"""What a processor passes to the model, what a caller may say about it, and what happens if neither is known."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from foveate import Plan, Report, draw
from foveate.demo import load
from foveate.draw.places import place_of
from foveate.errors import InputError
from foveate.families import Box, RegionRequest
from foveate.families.kit.processors import centred
from foveate.report import ImageReport, Stage

SIZES = [(336, 336), (640, 427), (427, 640), (1001, 333), (100, 37), (40, 900), (337, 336)]
RAW = {"do_normalize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def coordinates(size: tuple[int, int]) -> Image.Image:
    """A picture whose red and green say where a pixel is."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 0 * across], -1).round().astype(np.uint8))


def processed(processor: object, picture: Image.Image) -> np.ndarray:
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0) * 255  # type: ignore[operator]


def seen_box(processor: object, size: tuple[int, int]) -> Box:
    return centred(RegionRequest(None, processor, size, ((1, 1, 1),))).box


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
    ours = cut(picture, seen_box(processor, size), seen.shape[0])
    middle = slice(4, -4)  # resizing a cut-out and cutting a resized picture differ at the very edge
    assert np.abs(seen - ours)[middle, middle, :2].max() <= max(1.5, 2 * 255 / min(size))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300)])
def test_the_box_of_a_padding_processor_reaches_beyond_the_picture(size: tuple[int, int]) -> None:
    processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    left, top, right, bottom = seen_box(processor, size)
    assert (right - left, bottom - top) == (max(size), max(size))
    assert (left, top) == (-((max(size) - size[0]) // 2), -((max(size) - size[1]) // 2))


def place(crop: object, size: tuple[int, int] = (600, 400), parts: tuple = ((1, 4, 4),)) -> Box:
    (region,) = place_of(None, None, crop, size, parts, video=False, pictures=1).regions or ()  # type: ignore[arg-type]
    return region.box


def test_named_crops() -> None:
    assert place("center-square") == Box(100, 0, 500, 400)
    assert place("pad-square") == Box(0, -100, 600, 500)
    assert place("whole") == Box(0, 0, 600, 400)
    assert place((10, 20, 90, 100)) == Box(10, 20, 90, 100)


@pytest.mark.parametrize("crop", ["middle", "auto", (0, 0, 0, 5), (700, 0, 800, 400), (1, 2, 3), (0, 0, float("nan"), 5), ("a", 0, 1, 1)])
def test_a_crop_that_shows_nothing_is_refused(crop: object) -> None:
    with pytest.raises(InputError, match="crop="):
        place(crop)


def test_what_says_it_twice_or_by_half_is_refused() -> None:
    model, processor = load()
    both = {"size": (600, 400), "parts": ((1, 24, 24),), "video": False, "pictures": 1}
    with pytest.raises(InputError, match="both model"):
        place_of(model, None, None, **both)
    with pytest.raises(InputError, match="one or the other"):
        place_of(model, processor, "whole", **both)
    with pytest.raises(InputError, match="3 parts"):
        place("whole", parts=((1, 2, 2),) * 3)


def report(grid: tuple[int, int, int], parts: tuple[tuple[int, int, int], ...] = ()) -> Report:
    plan = Plan.keep([0], grid[0] * grid[1] * grid[2])
    return Report((ImageReport(0, 0, grid, plan, (Stage("Method(keep=1)", 2, plan),), parts),))


def test_tokens_with_an_unknown_place_are_drawn_apart_from_the_picture() -> None:
    green = Image.new("RGB", (300, 100), (20, 160, 60))
    apart = np.asarray(draw.kept(report((1, 4, 4)), green, grid=False, panels=False))
    over = np.asarray(draw.kept(report((1, 4, 4)), green, grid=False, panels=False, crop="whole"))
    assert not (over == (20, 160, 60)).all(-1)[: over.shape[0] // 4, over.shape[1] // 2 :].any()  # dropped cells cover the picture
    picture = (apart == (20, 160, 60)).all(-1)
    rows, columns = picture.any(1).nonzero()[0], picture.any(0).nonzero()[0]
    assert picture[rows[0] : rows[-1], columns[0] : columns[-1]].all()  # the picture is whole, and nothing covers it
    model, processor = load()
    told = np.asarray(draw.kept(report((1, 24, 24)), green, grid=False, panels=False, model=model.config, processor=processor))
    assert told.shape != apart.shape


def test_a_picture_that_was_not_the_models_is_refused() -> None:
    model, processor = load()
    with pytest.raises(InputError, match=r"24\.0 tokens"):
        draw.kept(report((1, 9, 9)), Image.new("RGB", (300, 100)), model=model, processor=processor)
    with pytest.raises(InputError, match="no picture"):
        draw.kept(report((1, 4, 4)), [])
