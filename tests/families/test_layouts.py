"""Where tokens lie in their images: compared with the models' own packing, and with gradients from tokens to pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from oracle import Sieve, prompt
from torch import Tensor
from zoo import IMAGE, Case, Piece, known

import foveate
from foveate.engine.encoders import Encoders
from foveate.errors import InputError, UnsupportedError, UnsupportedModelError
from foveate.families import Encoding, family_of
from foveate.families.idefics3 import Idefics3
from foveate.families.llava_next import LlavaNext
from foveate.families.llava_onevision import LlavaOnevision

SIZES = [
    (336, 336),
    (1, 4000),
    (4000, 1),
    (672, 1008),
    *((random.Random(n).randint(20, 3000), random.Random(-n).randint(20, 3000)) for n in range(60)),
]


def published(model_type: str) -> Any:
    """A model without layers, whose packing works on the released sizes of pictures."""
    if model_type == "llava_next":
        vision, points = zoo.tower("clip_vision_model", image_size=336, patch_size=14), None
    else:
        vision, points = zoo.siglip(27, 14), [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
        vision.image_size = 384
    options = {"image_token_index": IMAGE, **({"image_grid_pinpoints": points} if points else {})}
    decoder = zoo.text("llama" if model_type == "llava_next" else "qwen2", num_hidden_layers=1)
    return zoo.model_of(model_type, vision_config=vision, text_config=decoder, **options)


@pytest.mark.parametrize(("model_type", "family"), [("llava_next", LlavaNext()), ("llava_onevision", LlavaOnevision())])
def test_tiles_are_joined_unpadded_and_scaled_as_the_model_does(model_type: str, family: Any) -> None:
    model = published(model_type)
    config, newline = model.config, torch.full((3,), -1.0)
    side = config.vision_config.image_size // config.vision_config.patch_size
    for height, width in SIZES:
        call = Encoding("image", {"image_sizes": torch.tensor([[height, width]])}, ())
        best = transformers_best((height, width), config.image_grid_pinpoints)
        crops = 1 + math.prod(length // config.vision_config.image_size for length in best)
        tower = torch.arange(crops * side**2 * 3.0).view(crops, side**2, 3)
        packed = pack(model, tower, (height, width), newline)
        call = Encoding("image", call.arguments, (len(packed),))
        (image,) = family.images(model, torch.full((1, len(packed)), IMAGE), [call])[0]
        (folded,) = family.fold(model, "tower_states", tower.flatten(0, 1), call)
        torch.testing.assert_close(packed[image.columns], folded)
        rest = torch.ones(len(packed), dtype=torch.bool)
        rest[image.columns] = False
        assert torch.equal(packed[rest], newline.expand(int(rest.sum()), 3))
        assert image.parts[0] == (1, side, side)
        if len(image.parts) == 1:  # so narrow that no patch is without padding; what is left of the tiles is newlines
            assert max(height, width) > 72 * min(height, width)
            assert len(image.columns) == side**2
        else:
            assert int(rest.sum()) == image.parts[1][1]


def transformers_best(size: tuple[int, int], points: list[list[int]]) -> tuple[int, int]:
    from transformers.image_processing_utils import select_best_resolution

    return select_best_resolution(size, points)


def pack(model: Any, tower: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
    more = {} if hasattr(model.config, "vision_aspect_ratio") else {"vision_feature_select_strategy": "default"}
    (packed,), _ = model.model.pack_image_features([tower], [list(size)], image_newline=newline, **more)
    return packed


def test_frames_are_pooled_as_the_model_does() -> None:
    model, family = zoo.onevision(), LlavaOnevision()
    pixels = torch.empty(2, 3, 3, 35, 35, device="meta")
    tower = torch.randn(6, 25, 8)
    folded = family.fold(model, "tower_states", tower.flatten(0, 1), Encoding("video", {"pixel_values_videos": pixels}, (28, 28)))
    torch.testing.assert_close(torch.cat(folded), model.model.apply_pooling(tower).flatten(0, 1))
    assert [len(part) for part in folded] == [27, 27]


def test_attention_of_shuffled_pixels_is_averaged_where_the_model_joins_them() -> None:
    model = zoo.internvl("internvl", "qwen2")
    family = family_of(model)
    attention = torch.rand(2, 8, 8, 1)
    joined = model.model.pixel_shuffle(attention, scale_factor=0.5).flatten(1, 2).mean(-1)
    folded = family.fold(model, "tower_attention", attention.flatten(0, 2), Encoding("image", {}, (16, 16)))
    torch.testing.assert_close(torch.stack(folded).squeeze(-1), joined)


def encode(model: Any, piece: Piece) -> tuple[Tensor, Tensor, Any]:
    """Features (n, d), the pixels they depend on, and where the family says that they lie."""
    family = family_of(model)
    encoders = Encoders(model, family, frozenset())
    name = "pixel_values" if piece.kind == "image" else "pixel_values_videos"
    pixels = piece.tensors[name].clone().requires_grad_()
    sizes = {key: value for key, value in piece.tensors.items() if key != name}
    try:
        encoders.enter()
        given = pixels[None] if isinstance(family, Idefics3) else pixels
        output = getattr(family.backbone(model), f"get_{piece.kind}_features")(given, **sizes, return_dict=True)
        seen, _ = encoders.seen(None)
    finally:
        encoders.remove()
    features = output.pooler_output
    features = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    (image,) = family.images(model, torch.tensor([piece.ids]), seen)[0]
    return features, pixels, image


def places(case: Case, piece: Piece) -> Iterator[tuple[int, float, float]]:
    """Crop, and middle in pixels (y, x), of each token."""
    height, width = next(iter(piece.tensors.values())).shape[-2:]
    for number, (frames, rows, columns) in enumerate(piece.parts):
        for cell in range(frames * rows * columns):
            frame, row, column = cell // (rows * columns), cell // columns % rows, cell % columns
            if "image_sizes" in piece.tensors and len(piece.parts) == 2 and number:
                yield from _tile(piece, row, column, rows, columns, width)
            else:
                yield frame if piece.kind == "video" else number, (row + 0.5) * height / rows, (column + 0.5) * width / columns


def _tile(piece: Piece, row: int, column: int, rows: int, columns: int, pixels: int) -> Iterator[tuple[int, float, float]]:
    _, high, wide = piece.parts[0]
    size, crops = piece.tensors["image_sizes"][0].tolist(), piece.tensors["pixel_values"].shape[1] - 1
    down = next(down for down in range(1, crops + 1) if crops % down == 0 and (down >= crops // down) == (size[0] >= size[1]))
    down, across = (2, 2) if crops == 4 else (down, crops // down)
    top, left = (down * high - rows) / 2, (across * wide - columns) / 2
    y, x = row + top, column + left
    yield 1 + int(y // high) * across + int(x // wide), (y % high + 0.5) * pixels / high, (x % wide + 0.5) * pixels / wide


SEEING = [case for case in zoo.CASES if known(case.model_type)]


@pytest.mark.parametrize("case", SEEING, ids=str)
def test_a_token_depends_most_on_the_pixels_of_its_place(case: Case) -> None:
    model = case.build()
    pieces = [case.image(seed) for seed in range(4)] + ([case.video(0)] if case.video else [])
    hits = tokens = 0
    for piece in pieces:
        if (
            case.model_type == "llava_onevision"
            and piece.kind == "image"
            and len(piece.content) - 25 != piece.tensors["pixel_values"][0, 1:].shape[0] * 25
        ):
            continue  # scaled rectangles: compared with the model's own packing above
        features, pixels, image = encode(model, piece)
        assert image.parts == piece.parts
        assert image.columns.tolist() == list(piece.content)
        first = piece.ids.index(piece.ids[piece.content[0]])
        order = torch.tensor([place for place, token in enumerate(piece.ids) if token == piece.ids[first]])
        rows = torch.searchsorted(order, image.columns)
        tokens += len(rows)
        for index, (crop, y, x) in zip(rows.tolist(), places(case, piece), strict=True):
            (gradient,) = torch.autograd.grad(features[index].square().sum(), pixels, retain_graph=True)
            strength = gradient.square().sum(-3).flatten(0, -3)
            high, wide = (math.sqrt(pixels.shape[-2] * pixels.shape[-1] / (part[1] * part[2])) for part in (piece.parts[0],) * 2)
            found = int(strength.argmax())
            size = strength.shape[-2] * strength.shape[-1]
            where = (found // size, found % size // strength.shape[-1], found % strength.shape[-1])
            hits += where[0] == crop and abs(where[1] + 0.5 - y) <= high and abs(where[2] + 0.5 - x) <= wide
    # Attention mixes patches, so single tokens may miss; a wrong order would hit a quarter at most.
    assert hits / tokens > 0.7, (case.model_type, hits, tokens)


# What is refused.


def given(case: Case, *parts: Any) -> dict[str, Tensor]:
    return prompt(case, [[3, *parts, 5]]).inputs


@pytest.mark.parametrize("case", SEEING, ids=str)
def test_placeholders_without_pixels_are_refused(case: Case) -> None:
    model = case.build()
    inputs = given(case, case.image(0))
    with foveate.compress(model, Sieve(layer=1)), pytest.raises(InputError, match="placeholders"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


@pytest.mark.parametrize("case", [case for case in SEEING if case.family in ("llava-next", "llava-onevision", "mistral3")], ids=str)
def test_features_from_before_without_sizes_are_refused(case: Case) -> None:
    model = case.build()
    inputs = given(case, case.image(0))
    pixels = {name: inputs[name] for name in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        early = {"image": model.model.get_image_features(**pixels, return_dict=True)}
    with foveate.compress(model, Sieve(layer=1)), pytest.raises(InputError, match="image_sizes is not known"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], mm_encoder_outputs=early)


def test_half_a_crop_is_refused() -> None:
    for model in (zoo.internvl("internvl", "qwen2"), zoo.idefics3("smolvlm")):
        ids = torch.tensor([[4, 5, *[IMAGE] * 15, 7]])
        with pytest.raises(InputError, match="15 image placeholders from column 2 of row 0"):
            family_of(model).images(model, ids, [Encoding("image", {}, (15,))])


def test_a_selection_of_features_that_breaks_the_square_is_refused() -> None:
    for build, strategy in ((zoo.llava_next, "full"), (zoo.onevision, "default"), (zoo.llava_pixtral, "default")):
        model = build()
        model.config.vision_feature_select_strategy = strategy
        with pytest.raises(UnsupportedModelError, match=f"vision_feature_select_strategy='{strategy}'"):
            foveate.compress(model, Sieve(layer=1))
    other = SimpleNamespace(
        config=SimpleNamespace(vision_config=SimpleNamespace(model_type="dinov2"), vision_feature_select_strategy="full")
    )
    with pytest.raises(UnsupportedModelError, match="dinov2"):
        LlavaNext().check(other)  # type: ignore[arg-type]


def test_videos_are_refused_where_only_images_are_verified() -> None:
    import zoo_generic

    model = zoo_generic.video_llava()
    with pytest.raises(UnsupportedError, match="video is not supported for video_llava"):
        family_of(model).images(model, torch.tensor([[4, 91, 7]]), [Encoding("video", {}, (1,))])


def test_crops_without_markers_are_images_of_their_own() -> None:
    model = zoo.idefics3("smolvlm")
    crop = [IMAGE] * 16
    images = family_of(model).images(model, torch.tensor([[4, *crop, 5, *crop, 6]]), [Encoding("image", {}, (32,))])
    assert [image.grid for image in images[0]] == [(1, 4, 4), (1, 4, 4)]
