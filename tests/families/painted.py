"""Paint a bright patch into a picture, run a model's own processor and vision tower, and see which tokens' features move."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torchvision_here import TORCHVISION, make_importable
from words import word_tokenizer
from zoo import END, IMAGE, START, VOCABULARY

import foveate
from foveate import Method, Plan, View
from foveate.families import Box, Region, family_of, regions_of
from foveate.report import ImageReport

SIZES = ((96, 96), (170, 60), (60, 170), (300, 40), (24, 18), (131, 97))
"""(width, height): square, wide, tall, very wide, tiny, and odd."""

SPOTS = ((0.15, 0.15), (0.85, 0.2), (0.5, 0.5), (0.2, 0.85), (0.88, 0.9))
"""Middles of the patches, as shares of width and height."""

SHARE = 0.26
"""Side of a patch, as a share of the picture's."""

BACKEND = "torchvision" if TORCHVISION else "pil"
"""What image processors work with, where they can work with both."""


@dataclass(frozen=True)
class RegionCase:
    """A model, its processor, and how a prompt is made of pictures.

    Attributes:
        name: of the test.
        build: the tiny model.
        processor: from the library it works with to the processor.
        inputs: from model, processor and pictures of one prompt to what the model is given.
        spread: how many cells beyond its place a patch may move features, where the model mixes neighbours.
        sizes: pictures to try.
        pictures: how many the prompt holds; the patch is painted into the last one.
        video: whether they are a video's frames.
        only: the one library that it needs; `None` for any.
        model_type: of a model that older versions of transformers may not have.
    """

    name: str
    build: Callable[[], Any]
    processor: Callable[[str], Any]
    inputs: Callable[[Any, Any, Sequence[Image.Image]], Mapping[str, Any]]
    spread: float = 0.0
    sizes: tuple[tuple[int, int], ...] = SIZES
    pictures: int = 1
    video: bool = False
    only: str | None = None
    model_type: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Look(Method):
    """Keeps everything and notes the features that the decoder is given."""

    keep: int | float = 1.0
    layer: int = 0
    seen: list[Tensor] = field(default_factory=list, compare=False)

    def plan(self, view: View) -> Plan:
        self.seen.append(view.states.detach().clone())
        return Plan.identity(len(view))


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A dark picture without structure."""
    values = np.random.default_rng(seed).integers(30, 90, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def patch(size: tuple[int, int], spot: tuple[float, float]) -> Box:
    width, height = max(1, round(size[0] * SHARE)), max(1, round(size[1] * SHARE))
    left = min(max(0, round(size[0] * spot[0] - width / 2)), size[0] - width)
    top = min(max(0, round(size[1] * spot[1] - height / 2)), size[1] - height)
    return Box(left, top, left + width, top + height)


def painted(picture: Image.Image, box: Box) -> Image.Image:
    copy = picture.copy()
    copy.paste((255, 255, 255), tuple(map(int, box)))
    return copy


def features(model: Any, inputs: Mapping[str, Any]) -> tuple[list[Tensor], tuple[ImageReport, ...]]:
    """The features (n, d) of each image, and what the report says of them."""
    method = Look()
    with foveate.compress(model, method) as handle, torch.no_grad():
        model(**inputs)
        return method.seen, handle.report.images


def narrow(model: Any) -> Any:
    """The same model with vision towers whose patches do not see each other: attention adds nothing."""
    decoder = set(family_of(model).decoder(model).modules())
    for module in family_of(model).backbone(model).modules():
        if module not in decoder and type(module).__name__.endswith("Attention"):
            module.register_forward_hook(_nothing)
    return model


def _nothing(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def moved(before: Tensor, after: Tensor) -> Tensor:
    """(n,), how far each token's features moved, as a share of the one that moved most; 0 everywhere if none did."""
    change = (after - before).norm(dim=1)
    largest = float(change.max())
    return change / largest if largest > 1e-3 * float(before.norm(dim=1).mean()) else change * 0


def reach(cell: Box, spread: float) -> tuple[float, float]:
    """How far beyond its edges a patch may reach: resizing mixes neighbouring pixels."""
    return (0.35 + spread) * cell.width + 3, (0.35 + spread) * cell.height + 3


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def inside(one: Box, other: Box) -> bool:
    return one.left >= other.left and one.right <= other.right and one.top >= other.top and one.bottom <= other.bottom


def wrong(change: Tensor, regions: Sequence[Region], parts: Sequence[tuple[int, int, int]], box: Box, spread: float) -> list[str]:
    """Tokens outside the patch that changed, and tokens in the patch that did not."""
    found, token = [], 0
    for number, (region, (frames, rows, columns)) in enumerate(zip(regions, parts, strict=True)):
        for index in range(frames * rows * columns):
            row, column = index // columns % rows, index % columns
            cell = region.cell(row, column)
            across, down = reach(cell, spread)
            wide = Box(box.left - across, box.top - down, box.right + across, box.bottom + down)
            far = Box(box.left + across / 2, box.top + down / 2, box.right - across / 2, box.bottom - down / 2)
            share = float(change[token])
            if share > 0.25 and not overlap(cell, wide):
                found.append(f"part {number}, row {row}, column {column} moved ({share:.2f}), but lies at {cell}, not in {box}")
            elif share < 0.1 and (inside(cell, box) or (overlap(cell, far) and not spread)) and _area(cell):
                found.append(f"part {number}, row {row}, column {column} lies at {cell}, in {box}, but did not move ({share:.2f})")
            token += 1
    return found


def _area(cell: Box) -> bool:
    return cell.width > 0 and cell.height > 0


def check(case: RegionCase, backend: str) -> None:
    """Every patch changes the tokens whose cells it touches and no others; one that fills a cell changes that cell's token most."""
    check_sizes(case, backend, case.sizes)


def check_sizes(case: RegionCase, backend: str, sizes: Sequence[tuple[int, int]]) -> None:
    """The same for pictures of these sizes."""
    model, processor = narrow(case.build()), case.processor(backend)
    for number, size in enumerate(sizes):
        Case(case, model, processor, size, number).check()


@dataclass
class Case:
    """One size of pictures."""

    case: RegionCase
    model: Any
    processor: Any
    size: tuple[int, int]
    seed: int

    def check(self) -> None:
        self.pictures = [noise(self.size, 10 * self.seed + index) for index in range(self.case.pictures)]
        self.before, self.images = features(self.model, self.case.inputs(self.model, self.processor, self.pictures))
        for spot in SPOTS:
            self.check_patch(patch(self.size, spot))
        self.check_cells()

    def changes(self, box: Box) -> Iterator[tuple[ImageReport, tuple[Region, ...], Tensor]]:
        """For each image that shows a patch: what the report says, where its tokens should lie, and how much they changed."""
        video = self.case.video
        changed = [painted(one, box) for one in self.pictures] if video else [*self.pictures[:-1], painted(self.pictures[-1], box)]
        after, _ = features(self.model, self.case.inputs(self.model, self.processor, changed))
        for index, image in enumerate(self.images):
            change = moved(self.before[index], after[index])
            if not video and index < len(self.images) - 1:
                assert not change.any(), (self.size, index)
                continue
            pictures = 1 if video else self.case.pictures
            kind = {"video": image.kind == "video", "pictures": pictures}
            yield image, regions_of(self.model, self.processor, self.size, image.parts, **kind), change

    def check_patch(self, box: Box) -> None:
        for image, regions, change in self.changes(box):
            problems = wrong(change, regions, image.parts, box, self.case.spread)
            assert not problems, (self.size, box, len(problems), problems[:4])
            if any(overlap(cell, box) for region in regions for cell in _cells(region)):
                assert change.any(), (self.size, box)

    def check_cells(self) -> None:
        """Paint single cells of the last image, where they should lie."""
        kind = {"video": self.images[-1].kind == "video", "pictures": 1 if self.case.video else self.case.pictures}
        regions = regions_of(self.model, self.processor, self.size, self.images[-1].parts, **kind)
        generator = random.Random(self.seed)
        for part in generator.sample(range(len(regions)), min(2, len(regions))):
            own = list(_cells(regions[part]))
            for token in generator.sample(range(len(own)), min(3, len(own))):
                box = _pixels(own[token], self.size)
                if box is None:
                    continue
                image, _, change = list(self.changes(box))[-1]
                first = sum(math.prod(other) for other in image.parts[:part])
                per_frame = change[first : first + math.prod(image.parts[part])].view(-1, len(own))
                # Where the model mixes neighbours, one of them may move more.
                least = per_frame.amax(1) * (0.4 if self.case.spread else 1.0)
                assert bool((per_frame[:, token] >= least).all()), (self.size, part, token, box, per_frame.topk(2).indices)


def _cells(region: Region) -> Iterator[Box]:
    rows, columns = region.grid
    for row in range(rows):
        for column in range(columns):
            yield region.cell(row, column)


def _pixels(cell: Box, size: tuple[int, int]) -> Box | None:
    """The pixels of a cell, or `None` if less than most of it lies in the picture, or it is too small to be painted."""
    box = Box(max(0, round(cell.left)), max(0, round(cell.top)), min(size[0], round(cell.right)), min(size[1], round(cell.bottom)))
    if box.width < 0.8 * cell.width or box.height < 0.8 * cell.height or min(box.width, box.height) < 6:
        return None
    return box


def tokenizer(special: Mapping[int, str]) -> Any:
    """Words `w0` to `w95`, some of which are special tokens."""
    words = [special.get(number, f"w{number}") for number in range(VOCABULARY)]
    words[:3] = ["<pad>", "<s>", "<unk>"]
    return word_tokenizer(words, pad_token="<pad>", additional_special_tokens=list(special.values()))


def image_processor(backend: str, module: str, name: str, **settings: Any) -> Any:
    """The image processor of that name that works with Pillow, or with torchvision."""
    if backend == "torchvision":
        make_importable()
        return getattr(transformers, name)(**settings)
    path = f"transformers.models.{module}.image_processing_pil_{module}"
    return getattr(__import__(path, fromlist=[name]), f"{name}Pil")(**settings)


def alone(processor: Any, video: Any = None) -> Any:
    """A processor that has nothing but what treats pictures."""
    return SimpleNamespace(image_processor=processor, video_processor=video)


def runs(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """A prompt in which each picture is an unbroken run of placeholders between a start and an end."""
    ids, tensors = [3], []
    for picture in pictures:
        made = dict(processor.image_processor(picture, return_tensors="pt"))
        made = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        count = _count(model, made)
        ids += [START, *[IMAGE] * count, END]
        tensors.append(made)
    together = {name: torch.cat([made[name] for made in tensors]) for name in tensors[0]}
    given = torch.tensor([[*ids, 5]])
    return {"input_ids": given, "attention_mask": torch.ones_like(given), **_of_pictures(together)}


def _count(model: Any, made: Mapping[str, Tensor]) -> int:
    with torch.no_grad():
        output = family_of(model).backbone(model).get_image_features(**_of_pictures(made), return_dict=True).pooler_output
    return sum(part.shape[:-1].numel() for part in output)


def _of_pictures(made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model is given of a processor's tensors; the rest is for the prompt."""
    return {name: value for name, value in made.items() if name not in ("num_patches", "grids", "num_crops")}
