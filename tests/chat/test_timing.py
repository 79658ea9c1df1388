"""One timer: what counts as vision, prefill and decode, however the model is called. Its clock here advances by what the model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny import TOKENS, tiny_llava
from torch import nn

from foveate import FastV, compress
from foveate.chat import timing
from foveate.chat.timing import GenerationTimer, GenerationTimes, Stopwatch
from foveate.errors import UnsupportedModelError

TOWER, PROJECTOR, DECODER, REST = 100.0, 30.0, 7.0, 2.0


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    model, clock = tiny_llava(), [0.0]
    monkeypatch.setattr(Stopwatch, "now", lambda self: clock[0])

    def takes(module: nn.Module, spent: float) -> Any:
        def advance(*args: Any) -> None:
            clock[0] += spent

        return module.register_forward_hook(advance)

    parts = {model.model.vision_tower: TOWER, model.model.multi_modal_projector: PROJECTOR, model.get_decoder(): DECODER, model: REST}
    hooks = [takes(module, spent) for module, spent in parts.items()]
    yield model
    for hook in hooks:
        hook.remove()


def prompt(model: Any) -> dict[str, Any]:
    ids = torch.tensor([[1, 2, *[model.config.image_token_id] * TOKENS, 3, 4]])
    side = model.config.vision_config.image_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, side, side)}


def generated(model: Any, tokens: int) -> None:
    model.generate(**prompt(model), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)


def called(model: Any, tokens: int) -> None:
    for number in range(tokens):  # the images are encoded in the first call only, as in a generation
        inputs = prompt(model)
        model(**(inputs if number == 0 else {"input_ids": inputs["input_ids"][:, :2]}))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("run", [generated, called], ids=["generate", "forward"])
def test_the_prefill_is_the_same_wherever_the_image_is_encoded(model: Any, run: Any, compressed: bool) -> None:
    around: Any = compress(model, FastV(keep=4)) if compressed else nullcontext()
    with GenerationTimer(model) as timer, around, timer.generation() as times:
        run(model, 1)
    assert times.vision_seconds == TOWER + PROJECTOR
    assert times.prefill_seconds == DECODER + REST
    assert times.first_token_seconds == TOWER + PROJECTOR + DECODER + REST
    assert times.decode_seconds is None


def test_a_model_of_no_known_family_is_timed_by_the_usual_names_of_encoders(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(model: Any) -> Any:
        raise UnsupportedModelError("a model of no known family")

    monkeypatch.setattr(timing, "family_of", unknown)
    with GenerationTimer(model) as timer, timer.generation() as times:
        generated(model, 1)
    assert times.vision_seconds == TOWER + PROJECTOR
    assert times.prefill_seconds == DECODER + REST


def test_tokens_after_the_first_are_timed_apart(model: Any) -> None:
    with GenerationTimer(model) as timer, timer.generation() as times:
        generated(model, 4)
    assert times.prefill_seconds == times.decode_seconds == DECODER + REST
    assert times.token_seconds(4) - times.first_token_seconds == 3 * (DECODER + REST)


def test_generations_of_one_timer_are_timed_apart(model: Any) -> None:
    found: list[GenerationTimes] = []
    with GenerationTimer(model) as timer:
        for _ in range(2):
            with timer.generation() as times:
                generated(model, 2)
            found.append(times)
            generated(model, 2)  # not timed
    assert [times.vision_seconds for times in found] == [TOWER + PROJECTOR] * 2
    assert [times.token_seconds(2) for times in found] == [TOWER + PROJECTOR + 2 * (DECODER + REST)] * 2


def test_text_alone_has_no_vision_time(model: Any) -> None:
    with GenerationTimer(model) as timer, timer.generation() as times:
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert times.vision_seconds is None
    assert times.prefill_seconds == DECODER + REST


def test_the_model_is_left_as_it_was(model: Any) -> None:
    def state() -> Any:
        return dict(model.model.__dict__), [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]

    before = state()
    with GenerationTimer(model) as timer, pytest.raises(ZeroDivisionError), timer.generation():
        raise ZeroDivisionError
    assert state() == before
