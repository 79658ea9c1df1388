"""Prompts of exact length with random words and images, because measurements must not depend on the content."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import InputError, ParameterError
from foveate.families import family_of
from foveate.measure.bench.shapes import ImageFormat

__all__ = ["RandomWords", "prompt_like", "random_prompt", "visual_tokens"]

FIRST_WORD = 3
"""Lower ids are padding, beginning and end in most vocabularies."""


class RandomWords:
    """Draws token ids that are ordinary words.

    Args:
        vocabulary: number of token ids.
        special: ids that must not be drawn.
        seed: of the draws.
    """

    def __init__(self, vocabulary: int, special: Collection[int], seed: int) -> None:
        allowed = torch.ones(vocabulary, dtype=torch.bool)
        allowed[:FIRST_WORD] = False
        allowed[[token for token in special if token < vocabulary]] = False
        self._ids = allowed.nonzero()[:, 0]
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, rows: int, count: int) -> Tensor:
        """Ids (rows, count), a different sequence in each row."""
        return self._ids[torch.randint(len(self._ids), (rows, count), generator=self.generator)]


def random_prompt(model: nn.Module, image: ImageFormat, *, before: int, after: int, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """One random image in random text, for a model without a processor; rows differ, and none is padded.

    Args:
        model: a model in a shape of `foveate.measure.bench.shapes`; the tensors go to its device, pixels in its precision.
        image: how it is given an image.
        before: text tokens before the image's placeholders, including those that open an image.
        after: text tokens after them, including those that close an image.
        batch: rows.
        seed: of words and pixels.

    Raises:
        ParameterError: too few text tokens for those that must surround an image.
    """
    config: Any = model.config
    text = config.get_text_config()
    words = RandomWords(text.vocab_size, {*family_of(model).placeholders(model).values(), *image.around}, seed)
    opening, closing = image.around[: len(image.around) // 2], image.around[len(image.around) // 2 :]
    visual = torch.full((image.tokens,), config.image_token_id)
    inputs = _text(words, opening, visual, closing, before, after, batch)
    inputs |= _pixels(config.vision_config, image, batch, words.generator)
    if image.layout == "patches":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).long()
    return _ready(model, inputs)


def prompt_like(
    model: nn.Module, inputs: Mapping[str, Tensor], special: Collection[int], *, before: int, after: int, batch: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """A prompt of the wanted length around the image of a prompt from a processor; rows differ in words and pixels.

    Args:
        model: the model that takes them.
        inputs: one row with one image, from the model's own processor.
        special: the tokenizer's special ids.
        before: text tokens before the first placeholder.
        after: text tokens after the last one.
        batch: rows.
        seed: of words and pixels.

    Raises:
        InputError: there is no image.
        ParameterError: there are too few text tokens.
    """
    config: Any = model.config
    placeholders = set(family_of(model).placeholders(model).values())
    ids = inputs["input_ids"][0].cpu()
    places = torch.isin(ids, torch.tensor(sorted(placeholders))).nonzero()[:, 0]
    if not len(places):
        raise InputError("the processor's prompt has no placeholder of an image, so there is nothing to compress")
    first, last = int(places[0]), int(places[-1]) + 1
    words = RandomWords(config.get_text_config().vocab_size, {*special, *placeholders}, seed)
    opening, closing = (tuple(side.tolist()) for side in (ids[max(0, first - 1) : first], ids[last : last + 1]))
    made = _text(words, opening, ids[first:last], closing, before, after, batch)
    for name, tensor in inputs.items():
        if name in made or not isinstance(tensor, Tensor):
            continue
        if tensor.shape[:2] == inputs["input_ids"].shape:
            middle = tensor[:, first:last].cpu().expand(batch, -1)
            made[name] = torch.nn.functional.pad(middle, (before, after))
        else:
            rows = [tensor.cpu()] * batch
            made[name] = torch.cat([_noise(row, words.generator) if row.is_floating_point() else row for row in rows])
    return _ready(model, made)


def visual_tokens(model: nn.Module, input_ids: Tensor) -> int:
    """Placeholders of images in the first row, including newlines and the like where they share the id."""
    ids = torch.tensor(sorted(family_of(model).placeholders(model).values()), device=input_ids.device)
    return int(torch.isin(input_ids[0], ids).sum())


def _text(
    words: RandomWords, opening: tuple[int, ...], visual: Tensor, closing: tuple[int, ...], before: int, after: int, batch: int
) -> dict[str, Tensor]:
    if before < len(opening) or after < len(closing) + 1:
        raise ParameterError(
            f"before={before}, after={after}: this model needs at least {len(opening)} text token(s) before the image "
            f"and {len(closing) + 1} after it",
            "before",
            "after",
        )
    parts = [
        words.draw(batch, before - len(opening)),
        torch.tensor(opening, dtype=torch.long).expand(batch, -1),
        visual.expand(batch, -1),
        torch.tensor(closing, dtype=torch.long).expand(batch, -1),
        words.draw(batch, after - len(closing)),
    ]
    ids = torch.cat(parts, dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _pixels(vision: Any, image: ImageFormat, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    if image.layout == "square":
        return {"pixel_values": torch.randn(batch, 3, image.height, image.width, generator=generator)}
    rows, columns = image.height // vision.patch_size, image.width // vision.patch_size
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.randn(batch * rows * columns, values, generator=generator),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * batch),
    }


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def _ready(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    first = next(model.parameters())
    return {name: value.to(first.device, first.dtype if value.is_floating_point() else None) for name, value in inputs.items()}
