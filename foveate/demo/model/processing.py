"""The processor of the variant with dynamic resolution; transformers' own needs torchvision for videos, which may not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from foveate.demo.model.language import CHAT_TEMPLATE, IMAGE_TOKEN, MEAN, SPREAD, build_tokenizer
from foveate.demo.scenes.labels import GRID, PATCH
from foveate.images import flat

VISION_START, VISION_END, VIDEO = "<|vision_start|>", "<|vision_end|>", "<video>"
_SMALLEST = 8  # patches per side


class DynamicProcessor(ProcessorMixin):
    """Turns pictures of any size, and prompts with an `<image>` for each, into inputs.

    Args:
        image_processor: Qwen2-VL's Pillow one.
        tokenizer: the embedded model's.
        chat_template: the format of a conversation.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.image_token_id = IMAGE_TOKEN, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        padding: bool | str = False,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Encode one prompt or several; every `<image>` becomes as many placeholders as its picture has visual tokens.

        Args:
            images: pictures in the order of the `<image>` in all prompts: one, a list, or a list per prompt.
            text: a prompt, or a list of them.
            videos: not supported.
            audio: not supported.
            padding: as for the tokenizer.
            return_tensors: as for the tokenizer.
            options: for the tokenizer.

        Raises:
            ValueError: the number of pictures differs from that of `<image>`, or there is a video or sound.
        """
        if videos is not None or audio is not None:
            raise ValueError("the embedded model takes text and images: pass frames of a video as images, with <image> for each")
        texts = [text] if isinstance(text, str) else list(text or ())
        pictures = list(flat(images))
        seen = self.image_processor(images=pictures, return_tensors=return_tensors) if pictures else BatchFeature()
        grids = [tuple(map(int, grid)) for grid in seen["image_grid_thw"]] if pictures else []
        places = sum(one.count(IMAGE_TOKEN) for one in texts)
        if places != len(grids):
            raise ValueError(f"{len(grids)} pictures for {places} {IMAGE_TOKEN} in the text: name each picture once")
        merged = self.image_processor.merge_size**2
        counts = iter([time * rows * columns // merged for time, rows, columns in grids])
        for index, one in enumerate(texts):
            first, *others = one.split(IMAGE_TOKEN)
            texts[index] = first + "".join(f"{VISION_START}{IMAGE_TOKEN * next(counts)}{VISION_END}{other}" for other in others)
        encoded = self.tokenizer(texts, padding=padding, return_tensors=return_tensors, **options)
        ids = encoded["input_ids"]
        placeholder = self.image_token_id
        kinds = (ids == placeholder).long() if return_tensors == "pt" else [[int(i == placeholder) for i in row] for row in ids]
        return BatchFeature({**encoded, **seen, "mm_token_type_ids": kinds})

    @property
    def model_input_names(self) -> list[str]:
        """The names of what `__call__` returns."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"]


def build_dynamic_processor() -> DynamicProcessor:
    """The processor of a fresh variant: pictures keep their size, rounded to multiples of 28 pixels, up to 336 by 336 pixels."""
    tokenizer: PreTrainedTokenizerFast = build_tokenizer((VISION_START, VISION_END, VIDEO))
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": (_SMALLEST * PATCH) ** 2, "longest_edge": (GRID * PATCH) ** 2},
        patch_size=PATCH,
        image_mean=[MEAN] * 3,
        image_std=[SPREAD] * 3,
    )
    return DynamicProcessor(images, tokenizer, CHAT_TEMPLATE)
