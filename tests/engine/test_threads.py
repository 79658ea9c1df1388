"""Several threads on one compressed model: each gets what it would get alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import METHODS, Fixed, batch, generate, keep_target, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate import FastV, FirstLayerAttention, Method

WORKERS = 4
PROMPTS = [batch([prompt(3 + n, "image", 5 + 2 * n, seed=n)], seed=n) for n in range(WORKERS)]


class Meeting:
    """Makes the forward passes of all threads overlap: each waits for the others between two decoder layers."""

    def __init__(self, layer: Any) -> None:
        self._barrier = threading.Barrier(WORKERS)
        self._hook = layer.register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self._barrier.wait(timeout=120)

    def remove(self) -> None:
        self._hook.remove()


def together(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, range(WORKERS)))


def answers(model: Any, handle: foveate.Handle | None, number: int) -> tuple[Tensor, Any]:
    out = generate(model, PROMPTS[number], steps=4)
    return torch.stack(out.logits, 1), None if handle is None else handle.report.images


@pytest.mark.parametrize(
    "method", [*METHODS, FastV(keep=6, layer=0), FirstLayerAttention(keep=6), [FastV(keep=9, layer=1), FastV(keep=4, layer=3)]], ids=repr
)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_threads_get_what_each_would_get_alone(method: Method | list[Method], layer: int) -> None:
    model = tiny_llava(dtype=torch.float64)
    prompts = [{**inputs, "pixel_values": inputs["pixel_values"].double()} for inputs in PROMPTS]
    with foveate.compress(model, method) as handle, torch.no_grad():

        def run(number: int) -> tuple[Tensor, Any]:
            out = generate(model, prompts[number], steps=4)
            return torch.stack(out.logits, 1), handle.report.images

        alone = [run(number) for number in range(WORKERS)]
        meeting = Meeting(model.model.language_model.layers[layer])
        found = together(run)
        meeting.remove()
    for (got, images), (expected, own) in zip(found, alone, strict=True):
        assert torch.equal(got, expected)
        assert images == own


def test_a_prefill_beside_the_decoding_of_others() -> None:
    """Threads are at different points: one reads attention while another decodes through the same module."""
    model = tiny_llava(dtype=torch.float64)
    prompts = [{**inputs, "pixel_values": inputs["pixel_values"].double()} for inputs in PROMPTS]
    with foveate.compress(model, FastV(keep=6)), torch.no_grad():
        outs = [generate(model, inputs, steps=4) for inputs in prompts]
        alone = [torch.stack(out.logits, 1) for out in outs]
        caches = [model(**inputs) for inputs in prompts]
        tokens = [out.sequences[:, -4:-3] for out in outs]
        expected = [own[:, 1] for own in alone]

        def run(number: int) -> Tensor:
            if number % 2:
                return model(input_ids=tokens[number], past_key_values=caches[number].past_key_values).logits[:, -1]
            return model(**prompts[number]).logits[:, -1]

        meeting = Meeting(model.model.language_model.layers[1])
        found = together(run)
        meeting.remove()
    for number, got in enumerate(found):
        wanted = expected[number] if number % 2 else alone[number][:, 0]
        torch.testing.assert_close(got.float(), wanted.float(), atol=1e-6, rtol=1e-6)


def test_text_in_one_thread_does_not_end_the_pass_of_another() -> None:
    model = tiny_llava()
    inputs, text = PROMPTS[0], batch([prompt(6)])
    method = Fixed(targets=(keep_target([1, 4, 9]),))
    with foveate.compress(model, method) as handle, torch.no_grad():
        expected, plain = model(**inputs).logits, model(**text).logits

        def run(number: int) -> Tensor:
            return model(**(text if number % 2 else inputs)).logits

        meeting = Meeting(model.model.language_model.layers[2])
        found = together(run)
        meeting.remove()
        assert handle.report.images == ()  # of this thread, whose last prefill was of text
    for number, got in enumerate(found):
        assert torch.equal(got, plain if number % 2 else expected)


def test_a_thread_that_ran_nothing_reads_the_last_report_of_any() -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=6)) as handle:
        thread = threading.Thread(target=lambda: model(**PROMPTS[0]))
        thread.start()
        thread.join(timeout=60)
        assert [image.tokens_after for image in handle.report.images] == [6]


def test_the_attention_modules_are_as_they_were_after_all_threads() -> None:
    model = tiny_llava()
    before = [id(part.config) for part in model.modules() if hasattr(part, "config")]
    with foveate.compress(model, METHODS[0]):
        together(lambda number: answers(model, None, number))
        assert [id(part.config) for part in model.modules() if hasattr(part, "config")] == before
