"""A decoder of two narrow layers with a tokenizer of its own, in the place of the pretrained one."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaModel

from foveate import demo
from foveate.demo.scenes import scene
from foveate.recipe.smollm2.language import AFTER, BEFORE, END, IMAGE, START
from foveate.recipe.smollm2.travel import Luggage, scikit_pictures, trained_tower

VOCABULARY = 700


@cache
def tokenizer() -> str:
    """The JSON of a byte-level tokenizer that knows the words of scenes, and single characters."""
    texts = [f"{question.text} {question.answer}" for seed in range(12) for question in scene(seed).questions]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", START, END, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([*texts, BEFORE, AFTER], trainer)
    return str(backend.to_str())


def config() -> LlamaConfig:
    """The small decoder's configuration, with grouped queries as in the pretrained one."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def luggage() -> Luggage:
    """What a run with the small decoder needs."""
    torch.manual_seed(0)
    decoder = {name: weight.detach() * (1 if "norm" in name else 3) for name, weight in LlamaModel(config()).state_dict().items()}
    tower = {name: weight.float() for name, weight in trained_tower(demo.load()[0]).items()}
    texts = {
        "train": [["What is it?", "A star."], ["Who is it?", "A ring."]],
        "test": [{"question": "What?", "words": ["star"], "answer": "No.", "right": False}],
    }
    return Luggage(decoder, tower, tokenizer(), texts, {name: picture.numpy() for name, picture in scikit_pictures().items()})
