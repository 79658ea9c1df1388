"""Tokenizers of whole words, for small models in folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SCENE = ["what", "colour", "is", "the", "circle", "red", "green", "blue"]
"""Words of a question about a scene, and of its answer."""


def word_tokenizer(words: Sequence[str], *, post_processor: Any = None, **names: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that knows `words`, and punctuation apart from them.

    Args:
        words: in the order of their ids; `<unk>` among them.
        post_processor: adds special tokens to a text.
        names: which of the words are which special tokens, as `PreTrainedTokenizerFast` takes them.
    """
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if post_processor is not None:
        backend.post_processor = post_processor
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **names)
