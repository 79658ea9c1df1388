"""The language of the model with a pretrained decoder: its prompts, its tokenizer and processor, and how answers are spelled."""

from __future__ import annotations

import re
from functools import cache

from tokenizers import Tokenizer
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from foveate.demo.model.language import MEAN, SPREAD
from foveate.demo.scenes.drawing import Item
from foveate.demo.scenes.labels import GRID, PATCH

START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<empty_output>"
"""`IMAGE` is a token of the decoder that no chat uses, so that the vocabulary needs no resizing."""

BEFORE = f"{START}system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face{END}\n{START}user\n"
BETWEEN = "\n"
AFTER = f"{END}\n{START}assistant\n"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '"
    + BEFORE.removesuffix(f"{START}user\n").replace("\n", "\\n")
    + "' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<empty_output>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def chat(question: str) -> str:
    """The prompt for a question about no picture, as the decoder's own template writes it."""
    return f"{BEFORE}{question}{AFTER}"


def prompt(question: str) -> str:
    """The prompt for a question about one picture."""
    return chat(f"{IMAGE}{BETWEEN}{question.strip()}")


def spelled(text: str) -> str:
    """A word in single letters, because the decoder splits words into pieces; a number needs no spaces, its digits are tokens."""
    return text if text.isdigit() else " ".join(text)


def spelled_answer(answer: str, about: tuple[Item, ...]) -> str:
    """An answer with whatever a sign says spelled."""
    said = [item.text.lower() for item in about if item.kind == "sign"]
    if answer in said:
        return spelled(answer)
    for text in said:
        answer = answer.replace(f"says {text}", f"says {spelled(text)}")
    return answer


def normalised(answer: str) -> str:
    """An answer in lower case, with letters that stand alone joined to words."""
    return re.sub(r"(?<=\b\w) (?=\w\b)", "", answer.strip().lower().rstrip("."))


class Words:
    """Token ids of the pieces of a prompt; they join without changing each other, as a test asserts.

    Args:
        tokenizer: the JSON of the decoder's tokenizer.
    """

    def __init__(self, tokenizer: str) -> None:
        self._backend = Tokenizer.from_str(tokenizer)
        self.before, self.between, self.after = map(self.ids, (BEFORE, BETWEEN, AFTER))
        self.ids = cache(self.ids)  # type: ignore[method-assign]

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text, without any special tokens around it."""
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)


def build_tokenizer(tokenizer: str) -> PreTrainedTokenizerFast:
    """The decoder's tokenizer, with the placeholder of visual tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer),
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token="<|endoftext|>",
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=8192,
        padding_side="left",
    )


def build_processor(tokenizer: str, side: int = GRID) -> LlavaProcessor:
    """The processor, like the embedded model's.

    Args:
        tokenizer: the JSON of the decoder's tokenizer.
        side: patches per side of a picture: 24, or 12 for the setting with 144 visual tokens.
    """
    pixels = side * PATCH
    images = CLIPImageProcessorPil(
        size={"shortest_edge": pixels},
        crop_size={"height": pixels, "width": pixels},
        image_mean=[MEAN] * 3,
        image_std=[SPREAD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(tokenizer),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
