"""Inputs made by hand have the form that transformers' own processors give, and families read the real ones.

Some processors insist on torchvision. Their tests run where it is installed: see `torchvision_here.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
import zoo
import zoo_qwen
from painted import tokenizer
from PIL import Image
from torchvision_here import TORCHVISION
from zoo import END, IMAGE, NEWLINE, START, VIDEO, WHOLE, Piece

import foveate
from foveate import FastV

FAKE, FIRST_CROP = START, 40


pytestmark = pytest.mark.processors
needs_torchvision = pytest.mark.skipif(not TORCHVISION, reason="torchvision is not installed; make test-torchvision runs this")


def pil(module: str, name: str) -> Any:
    package = __import__(f"transformers.models.{module}.image_processing_pil_{module}", fromlist=[name])
    return getattr(package, name)


def picture(height: int, width: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def same(given: Any, piece: Piece, before: int = 1, after: int = 1) -> None:
    """The processor's ids between the prompt's first and last words, and the shapes of its tensors, are those of the piece."""
    ids = given["input_ids"][0].tolist()
    assert ids[before : len(ids) - after] == list(piece.ids)
    for name, tensor in piece.tensors.items():
        assert given[name].shape == tensor.shape, name
        if not tensor.is_floating_point():
            assert torch.equal(torch.as_tensor(given[name]), tensor), name


def parts(model: Any, given: Any) -> list[tuple[tuple[int, int, int], ...]]:
    """What a compressed run makes of real inputs: the parts of each image."""
    with foveate.compress(model, FastV(keep=3)) as handle:
        model.generate(**given, max_new_tokens=2, do_sample=False)
    assert all(image.tokens_after == 3 * image.grid[0] for image in handle.report.images)
    return [image.parts for image in handle.report.images]


def test_llava_next() -> None:
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "image_grid_pinpoints": zoo.PINPOINTS}
    images = pil("llava_next", "LlavaNextImageProcessorPil")(**sizes)
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaNextProcessor(images, tokenizer({IMAGE: "<image>"}), **options)
    pieces = [zoo.next_image(seed) for seed in range(4)]
    pictures = [picture(*piece.tensors["image_sizes"][0].tolist()) for piece in pieces]
    for shown, piece in zip(pictures, pieces, strict=True):
        same(processor(images=shown, text="w3 <image> w5", return_tensors="pt"), piece)
    model = zoo.llava_next()
    together = processor(images=pictures, text=["w3 <image> w4 <image> w5 <image> w6 <image> w7"], return_tensors="pt")
    assert parts(model, together) == [piece.parts for piece in pieces]


def test_idefics3() -> None:
    special = {IMAGE: "<image>", FAKE: "<fake_token_around_image>", WHOLE: "<global-img>", 85: "<end_of_utterance>"}
    special |= {FIRST_CROP + 6 * row + column: f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6)}
    images = pil("idefics3", "Idefics3ImageProcessorPil")(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(images, tokenizer(special), image_seq_len=16)
    model = zoo.idefics3("idefics3")
    shown = [picture(32, 64), picture(64, 64), picture(64, 32)]
    crop = (1, 4, 4)
    for text in ("w3 <image> w4 <image> w5 <image> w6", "w3 <image><image><image> w6"):
        given = processor(images=[shown], text=[text], return_tensors="pt")
        assert parts(model, given) == [(crop,) * 3, (crop,) * 5, (crop,) * 3]
    # Where a picture is not split, there is the whole of it alone.
    whole = processor(images=[shown[:2]], text=["w3 <image> w4 <image> w5"], do_image_splitting=False, return_tensors="pt")
    assert parts(model, whole) == [(crop,)] * 2


@needs_torchvision
def test_pixtral() -> None:
    special = {IMAGE: "[IMG]", NEWLINE: "[IMG_BREAK]", END: "[IMG_END]"}
    images = pil("pixtral", "PixtralImageProcessorPil")(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    processor = transformers.PixtralProcessor(images, tokenizer(special), patch_size=4, spatial_merge_size=2)
    pieces = [zoo.rows_image(seed) for seed in range(4)]
    pictures = [picture(*piece.tensors["image_sizes"][0].tolist()) for piece in pieces]
    for shown, piece in zip(pictures, pieces, strict=True):
        same(processor(images=[shown], text=["w3 [IMG] w5"], return_tensors="pt"), piece)
    together = processor(images=[pictures], text=["w3 [IMG] w4 [IMG] w5 [IMG] w6 [IMG] w7"], return_tensors="pt")
    assert parts(zoo.mistral3(), together) == [piece.parts for piece in pieces]


@needs_torchvision
def test_llava_onevision() -> None:
    images = pil("llava_onevision", "LlavaOnevisionImageProcessorPil")(
        size={"height": 35, "width": 35}, image_grid_pinpoints=zoo.OV_PINPOINTS
    )
    videos = transformers.LlavaOnevisionVideoProcessor(size={"height": 35, "width": 35})
    options = {"num_image_tokens": 25, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"}
    processor = transformers.LlavaOnevisionProcessor(images, tokenizer({IMAGE: "<image>", VIDEO: "<video>"}), videos, **options)
    case = next(case for case in zoo.CASES if case.model_type == "llava_onevision")
    model = case.build()
    for seed in range(4):
        piece = case.image(seed)
        given = processor(images=[picture(*piece.tensors["image_sizes"][0].tolist())], text=["w3 <image> w5"], return_tensors="pt")
        same(given, piece)
        assert parts(model, given) == [piece.parts]
    several = processor(images=[[picture(30, 90), picture(50, 50)]], text=["w3 <image> w4 <image> w5"], return_tensors="pt")
    assert parts(model, several) == [((1, 5, 5),)] * 2
    clip = [picture(35, 35) for _ in range(3)]
    given = processor(videos=[clip], text=["w3 <video> w5"], do_sample_frames=False, return_tensors="pt")
    assert parts(model, given) == [((3, 3, 3),)]


@needs_torchvision
def test_qwen2_vl() -> None:
    special = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", START: "<|vision_start|>", END: "<|vision_end|>"}
    sizes = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 14 * 14, "longest_edge": 112 * 112}}
    images = pil("qwen2_vl", "Qwen2VLImageProcessorPil")(**sizes)
    videos = transformers.Qwen2VLVideoProcessor(**sizes)
    processor = transformers.Qwen2VLProcessor(images, tokenizer(special), videos)
    case = next(case for case in zoo_qwen.CASES if case.model_type == "qwen2_vl")
    model = case.build()
    shown = [picture(56, 84), picture(28, 112), picture(70, 42)]
    text = " w4 ".join(["<|vision_start|><|image_pad|><|vision_end|>"] * 3)
    given = processor(images=shown, text=[f"w3 {text} w5"], return_tensors="pt")
    assert parts(model, given) == [((1, 4, 6),), ((1, 2, 8),), ((1, 5, 3),)]
    clip = [picture(56, 84) for _ in range(6)]
    text = "w3 <|vision_start|><|video_pad|><|vision_end|> w5"
    given = processor(videos=[clip], text=[text], do_sample_frames=False, return_tensors="pt")
    assert parts(model, given) == [((3, 4, 6),)]
