"""The model as it ships: built once from the decoder's package and the adapters (`make pretrained`), then asked."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sklearn")

from built_model import built, loaded

import foveate
from foveate import TokenCarve
from foveate.measure.scenes import balanced, evaluate
from foveate.recipe.smollm2.artefact import read_adapters
from foveate.recipe.smollm2.build import SHIPPED
from foveate.recipe.smollm2.language import chat

LARGEST = 16 * 2**20  # bytes of what foveate ships for this decoder
LEARNED = ("colour", "shape", "size", "presence", "side", "digit", "word", "number", "count", "hop")


def ten() -> list[Any]:
    """One question of each kind that the model learned, about pictures of its size."""
    return [sample for sample in balanced(1, "held_out", 12) if sample.question.family in LEARNED]


def test_what_ships_is_small_and_says_how_it_was_trained() -> None:
    assert SHIPPED.stat().st_size <= LARGEST
    shipped = read_adapters(SHIPPED)
    assert shipped.side == 12
    assert shipped.results["questions_seen"] > 0
    assert shipped.results["small_pictures"]["all_tokens"]["all"] > shipped.results["small_pictures"]["other_picture"]["all"]


@built
def test_the_shipped_model_sees() -> None:
    asked = ten()
    assert len(asked) == 10
    answers = evaluate(*loaded(), asked)
    blind = evaluate(*loaded(), asked, without_image=True)
    right = sum(answer.right for answer in answers)
    assert right >= 7, [(answer.question, answer.given, answer.answer) for answer in answers]
    assert right > sum(answer.right for answer in blind)


@built
def test_the_shipped_model_answers_with_a_quarter_of_the_tokens() -> None:
    model, processor = loaded()
    with foveate.compress(model, TokenCarve(36)) as handle:
        answers = evaluate(model, processor, ten())
    assert {image.tokens_after for image in handle.report.images} == {36}
    assert all(answer.given for answer in answers)


@built
def test_the_shipped_model_still_speaks() -> None:
    model, processor = loaded()
    inputs = processor.tokenizer(chat("What is the capital of France?"), return_tensors="pt")
    answer = processor.tokenizer.decode(model.generate(**inputs, max_new_tokens=12)[0, inputs.input_ids.shape[1] :])
    assert "Paris" in answer
