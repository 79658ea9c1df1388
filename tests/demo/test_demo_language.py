"""Words, prompts and the processor of the embedded model."""

from __future__ import annotations

import pytest
from PIL import Image

from foveate.demo.model.language import IMAGE_TOKEN, UNKNOWN, build_processor, build_tokenizer, prompt, unknown_words, vocabulary
from foveate.demo.scenes.drawing import COLOURS, SHAPES, WORDS

SPELLED = [word.lower() for words in WORDS.values() for word in words]


@pytest.mark.parametrize(
    "answer", ["kite", "552", "yes", "2", "red", "circle", *SPELLED, "a small red star and a yellow sign that says kite."]
)
def test_answers_survive_the_tokenizer(answer: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == answer


def test_sign_words_are_spelled_not_known() -> None:
    assert not set(SPELLED) & set(vocabulary())
    assert set(COLOURS) | set(SHAPES) <= set(vocabulary())


def test_case_spelling_and_punctuation_do_not_matter() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer("What COLOR is the Star ?").input_ids == tokenizer("what colour is the star?").input_ids


def test_characters_outside_the_vocabulary_are_unknown() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.tokenize("é 🙂") == [UNKNOWN, UNKNOWN]


def test_unknown_words_are_named_in_order() -> None:
    assert unknown_words("Is there a zebra near the star?") == ["zebra", "near"]
    assert unknown_words("What color is the star?") == []


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        prompt("  ")


def test_the_chat_template_writes_the_prompt() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what does the sign say?"}]
    chat = [{"role": "user", "content": parts}]
    written = build_processor().apply_chat_template(chat, add_generation_prompt=True)
    assert written == prompt("what does the sign say?")


@pytest.mark.parametrize("size", [(336, 336), (500, 200), (20, 700)])
def test_an_image_of_any_size_becomes_576_tokens_with_text_around_them(size: tuple[int, int]) -> None:
    processor = build_processor()
    inputs = processor(images=Image.new("RGB", size), text=prompt("is there a star?"), return_tensors="pt")
    visual = (inputs["input_ids"][0] == vocabulary()[IMAGE_TOKEN]).nonzero()[:, 0]
    assert inputs["pixel_values"].shape == (1, 3, 336, 336)
    assert len(visual) == 576
    assert visual[0] >= 5
    assert inputs["input_ids"].shape[1] - 1 - visual[-1] >= 5
