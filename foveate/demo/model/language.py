"""The embedded model's language: its vocabulary, tokenizer, prompt and processor.

Words are whole tokens. Anything else made of letters and digits is spelled, one token per character; this is how the model answers what a
sign says. `unknown_words` finds words that were never trained as a whole.
"""

from __future__ import annotations

import re
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from foveate.demo.scenes.drawing import COLOURS, SHAPES, SIZES
from foveate.demo.scenes.labels import GRID, PATCH
from foveate.demo.scenes.questions import PLURALS

PAD, START, END, UNKNOWN, IMAGE_TOKEN = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, START, END, UNKNOWN, IMAGE_TOKEN)
SYSTEM = "look at the picture and answer briefly."
MEAN, SPREAD = 0.5, 0.25  # one mean and deviation for all channels keeps black and white symmetric

CHAT_TEMPLATE = (
    "{{ '" + SYSTEM + " ' }}"
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_QUESTION_WORDS = (
    "what which how many is are there the a an does do say on at or of left right top bottom above below by hand written "
    "colour shape size object objects sign digit you see small large yes no have it count picture show where in corner more "
    "than same as word number handwritten read under that says describe one sentence"
)
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_SAME = {"color": "colour", "colors": "colour", "big": "large", "tiny": "small"}


def prompt(question: str) -> str:
    """The prompt for a question about one image, as the chat template writes it.

    Raises:
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    return f"{SYSTEM} USER: {IMAGE_TOKEN}\n{question.strip()} ASSISTANT:"


@cache
def vocabulary(own: tuple[str, ...] = ()) -> dict[str, int]:
    """Every token and its id, in a fixed order, with a shape's own special tokens last."""
    words = re.findall(r"\w+", f"{SYSTEM} user assistant {_QUESTION_WORDS}".lower())
    words += [*COLOURS, *SHAPES, *PLURALS.values(), *SIZES]
    tokens = [*SPECIAL, ".", ",", "?", "!", ":", *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS), *words, *own]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def unknown_words(question: str) -> list[str]:
    """The words of a question that the model was never trained on, in order."""
    known = vocabulary()
    words = re.findall(r"\w+", question.lower())
    return [word for word in words if _SAME.get(word, word) not in known or (len(word) == 1 and word.isalpha() and word != "a")]


def build_tokenizer(own: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer that lower-cases, splits off punctuation, keeps known words whole and spells the others.

    Args:
        own: special tokens that only one shape has.
    """
    backend = Tokenizer(models.WordPiece(vocabulary(own), unk_token=UNKNOWN, max_input_chars_per_word=64))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(rf"\b{word}\b"), same) for word, same in _SAME.items()),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, SPECIAL.index(START))])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE_TOKEN],
        extra_special_tokens={"image_token": IMAGE_TOKEN, **{token.strip("<|>") + "_token": token for token in own}},
        model_max_length=2048,
        padding_side="left",
    )


def build_processor() -> LlavaProcessor:
    """The processor, like LLaVA-1.5's: the centred square of a PIL image at 336 pixels, and 576 placeholders per image."""
    side = GRID * PATCH
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[MEAN] * 3,
        image_std=[SPREAD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )
