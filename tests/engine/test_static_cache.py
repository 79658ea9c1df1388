"""Static caches, uncompiled: what a compressed prompt leaves in them, and decoding from there, as on a dynamic cache."""

from __future__ import annotations

import copy
import gc
import importlib
import threading
import weakref
from typing import Any

import pytest
import torch
from tiny import METHODS, SPARSE, Fixed, batch, generate, prompt, tiny_llava
from torch import Tensor
from transformers import DynamicCache, StaticCache

import foveate
from foveate import FastV, Method, View
from foveate.engine import static
from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.stance import steps_aside
from foveate.engine.stepping import StaticSteps
from foveate.errors import CacheError, UnsupportedError

ONE_ROW, ROWS = batch([prompt(3, "image", 5)]), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
RIGHT = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)], padding="right")
STATIC: dict[str, Any] = {"cache_implementation": "static"}
METHOD = FastV(keep=4)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "STEP", 4)  # tiny prompts would fill a step


def own(model: Any, length: int = 64) -> StaticCache:
    return StaticCache(config=model.config.text_config, max_cache_len=length)


def same(out: Any, expected: Any) -> None:
    assert torch.equal(out.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(out.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)


def decoded(model: Any, inputs: dict[str, Tensor], cache: Any, steps: int = 6, **options: Any) -> Tensor:
    """The logits of a caller's own loop."""
    mask, found = inputs["attention_mask"], []
    with torch.no_grad():
        out = model(**inputs, **as_argument(cache))
        for _ in range(steps):
            found.append(out.logits[:, -1])
            token = found[-1].argmax(-1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = model(input_ids=token, attention_mask=mask, **as_argument(cache), **options)
            assert cache_of(out) is cache
    return torch.stack(found)


INPUTS = {"one row": ONE_ROW, "padded on the left": ROWS, "padded on the right": RIGHT}
SCHEDULES = [*METHODS, FastV(keep=6, layer=0), Fixed(targets=(SPARSE,)), [FastV(keep=9, layer=1), FastV(keep=4)]]


@pytest.mark.parametrize(
    ("method", "inputs"),
    [*((method, ROWS) for method in SCHEDULES), *((METHOD, inputs) for inputs in INPUTS.values())],
    ids=[*map(repr, SCHEDULES), *INPUTS],
)
def test_a_static_cache_gives_what_a_dynamic_one_gives(method: Method | list[Method], inputs: dict[str, Tensor]) -> None:
    model = tiny_llava()
    with foveate.compress(model, method) as handle:
        expected = generate(model, inputs)
        images = handle.report.images
        out = generate(model, inputs, **STATIC)
        same(out, expected)
        assert handle.report.images == images
        same(generate(model, inputs, **as_argument(own(model))), expected)
        torch.testing.assert_close(decoded(model, inputs, own(model)), decoded(model, inputs, DynamicCache()), atol=1e-4, rtol=1e-4)


def test_the_cache_is_short_and_reports_its_logical_length() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        cache = cache_of(generate(model, ROWS, steps=6, **STATIC))
        assert isinstance(cache, StaticCache)
        assert cache.is_compileable
        assert int(cache.get_seq_length()) == 27 + 5
        assert cache.get_max_length() == 27 + 5
        # Four tokens of 16 and eleven of text remain of the longer row; the keys of five new tokens follow.
        assert [tuple(layer.keys.shape) for layer in cache.layers] == [(2, 2, 20, 8)] * 4
        assert [tuple(layer.values.shape) for layer in cache.layers] == [(2, 2, 20, 8)] * 4


def test_a_cache_grows_when_more_tokens_come_than_were_asked_for() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        expected, cache = generate(model, ROWS, steps=3), own(model)
        same(generate(model, ROWS, steps=3, **as_argument(cache)), expected)
        short = cache.layers[0].keys.shape[2]
        step, mask = torch.tensor([[5], [6]]), torch.cat([ROWS["attention_mask"], torch.ones(2, 2, dtype=torch.long)], 1)
        dynamic = cache_of(expected)
        with torch.no_grad():
            for _ in range(30):
                mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
                both = [model(input_ids=step, attention_mask=mask, **as_argument(each)).logits for each in (cache, dynamic)]
                torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
            assert cache.layers[0].keys.shape[2] > short
            for _ in range(64 - 27 - 2 - 30):
                model(input_ids=step, **as_argument(cache))
            with pytest.raises(CacheError, match=r"full: it stands for 64 tokens.*max_cache_len"):
                model(input_ids=step, **as_argument(cache))


def test_a_prompt_that_does_not_fit_is_refused_before_any_layer_runs() -> None:
    model, ran = tiny_llava(), []
    model.model.language_model.embed_tokens.register_forward_hook(lambda *_: ran.append(1))
    with foveate.compress(model, METHOD), torch.no_grad():
        cache = own(model, 26)
        with pytest.raises(CacheError, match="27 tokens after 0 does not fit into this static cache of 26"):
            model(**ROWS, **as_argument(cache))
        assert not ran
        model(**ONE_ROW, **as_argument(cache))
        with pytest.raises(CacheError, match="24 tokens after 24 does not fit"):
            model(**ONE_ROW, **as_argument(cache))


def test_early_layers_that_keep_their_tokens_have_no_static_cache() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD, trim_early_layers=False):
        for way in (lambda: generate(model, ROWS, **STATIC), lambda: model(**ROWS, **as_argument(own(model)))):
            with pytest.raises(UnsupportedError, match=r"one length for all layers.*trim_early_layers=True"):
                way()


@pytest.mark.parametrize("picture", [False, True], ids=["text", "a second picture"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_second_turn_on_the_same_cache(rows: int, picture: bool) -> None:
    model, inputs = tiny_llava(), ONE_ROW if rows == 1 else ROWS
    more = [prompt(4, "image", 3, seed=7), prompt(2, "image", 6, seed=8)] if picture else [prompt(4, seed=7), prompt(2, seed=8)]
    question = batch(more[:rows], seed=3)

    def turns(**options: Any) -> Any:
        first = generate(model, inputs, steps=4, **options)
        given = {**question, "input_ids": torch.cat([first.sequences, question["input_ids"]], 1)}
        new = torch.ones(rows, 4, dtype=torch.long)
        given["attention_mask"] = torch.cat([inputs["attention_mask"], new, question["attention_mask"]], 1)
        return generate(model, given, steps=5, **as_argument(options.get("cache") or options.get("past_key_values") or cache_of(first)))

    with foveate.compress(model, METHOD):
        same(turns(**as_argument(own(model, 128))), turns())


def test_a_picture_after_a_first_turn_of_text() -> None:
    model, text = tiny_llava(), batch([prompt(6), prompt(4, seed=1)])
    with foveate.compress(model, METHOD), torch.no_grad():
        logits = []
        for cache in (own(model), DynamicCache()):
            model(**text, **as_argument(cache))
            mask = torch.cat([text["attention_mask"], ROWS["attention_mask"]], 1)
            logits.append(decoded(model, {**ROWS, "attention_mask": mask}, cache))
        torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_a_prompt_in_which_no_image_is_found_fills_the_cache_as_without_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = tiny_llava(), batch([prompt(6), prompt(4, seed=1)])
    plain = decoded(model, text, own(model))
    monkeypatch.setattr(StaticSteps, "_concerned", lambda *_: True)  # as if features were passed that nothing stands for
    with foveate.compress(model, METHOD):
        cache = own(model)
        torch.testing.assert_close(decoded(model, text, cache), plain, atol=1e-5, rtol=1e-5)
        assert all(type(layer).__name__ == "StaticLayer" for layer in cache.layers)


def test_beams_follow_their_cache() -> None:
    model = tiny_llava()
    options = {"num_beams": 3, "output_logits": False, "output_scores": True}
    with foveate.compress(model, METHOD):
        expected, out = generate(model, ROWS, **options), generate(model, ROWS, **options, **STATIC)
    assert torch.equal(out.sequences, expected.sequences)
    torch.testing.assert_close(out.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=1e-5)


def test_masked_new_tokens_of_one_row_count_in_neither_cache() -> None:
    model = tiny_llava()
    steps = [torch.tensor([[5], [6]]), torch.tensor([[7], [8]]), torch.tensor([[9], [10]])]
    new = torch.tensor([[1, 1, 1], [1, 0, 1]])
    with foveate.compress(model, METHOD), torch.no_grad():
        found: list[list[Tensor]] = [[], []]
        for logits, cache in zip(found, (own(model), DynamicCache()), strict=True):
            model(**ROWS, **as_argument(cache))
            for count, step in enumerate(steps, 1):
                mask = torch.cat([ROWS["attention_mask"], new[:, :count]], 1)
                logits.append(model(input_ids=step, attention_mask=mask, **as_argument(cache)).logits)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1][0], found[1][1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][2], found[1][2], atol=1e-5, rtol=1e-5)


def test_positions_that_a_caller_gives_are_taken() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        right = decoded(model, ONE_ROW, own(model), steps=2)
        torch.testing.assert_close(decoded(model, ONE_ROW, own(model), steps=2, position_ids=torch.tensor([[24]])), right)
        assert not torch.allclose(decoded(model, ONE_ROW, own(model), steps=2, position_ids=torch.tensor([[9]])), right, atol=1e-3)


def test_without_a_handle_a_cut_static_cache_is_refused_and_another_handle_continues() -> None:
    model, step = tiny_llava(), torch.tensor([[5]])
    with foveate.compress(model, METHOD), torch.no_grad():
        cache = own(model)
        model(**ONE_ROW, **as_argument(cache))
        expected = model(input_ids=step, **as_argument(copy.deepcopy(cache))).logits
    with torch.no_grad():
        with pytest.raises(CacheError, match="no foveate handle prepared this step"):
            model(input_ids=step, **as_argument(cache))
        with pytest.raises(CacheError, match="no foveate handle prepared this step"):
            generate(model, {"input_ids": torch.cat([ONE_ROW["input_ids"], step], 1)}, **as_argument(cache))
        with foveate.compress(model, FastV(keep=2)):
            torch.testing.assert_close(model(input_ids=step, **as_argument(cache)).logits, expected)


def test_a_cut_static_cache_is_cropped_behind_the_cut_only_and_reset() -> None:
    model, step = tiny_llava(), torch.tensor([[5]])
    with foveate.compress(model, METHOD), torch.no_grad():
        cache = own(model)
        logits = model(**ONE_ROW, **as_argument(cache)).logits
        expected = model(input_ids=step, **as_argument(copy.deepcopy(cache))).logits
        for token in (8, 9):
            model(input_ids=torch.tensor([[token]]), **as_argument(cache))
        for layer in cache.layers:
            layer.crop(-2)
        torch.testing.assert_close(model(input_ids=step, **as_argument(cache)).logits, expected)
        with pytest.raises(CacheError, match=r"cannot crop 2 of 25 tokens.*compressed together"):
            cache.layers[0].crop(-2)
        cache.reset()
        assert int(cache.get_seq_length()) == 0
        assert all(type(layer).__name__ == "StaticLayer" for layer in cache.layers)
        torch.testing.assert_close(model(**ONE_ROW, **as_argument(cache)).logits, logits)
        torch.testing.assert_close(model(input_ids=step, **as_argument(cache)).logits, expected)
    cache.reset()
    with torch.no_grad():
        model(**ONE_ROW, **as_argument(cache))  # as if there had never been a handle
    assert int(cache.get_seq_length()) == 24


def test_a_prompt_that_fails_leaves_the_cache_empty() -> None:
    model = tiny_llava()

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    with foveate.compress(model, METHOD), torch.no_grad():
        cache, expected = own(model), decoded(model, ROWS, DynamicCache())
        hook = model.model.language_model.layers[3].register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            model(**ROWS, **as_argument(cache))
        hook.remove()
        assert int(cache.get_seq_length()) == 0
        torch.testing.assert_close(decoded(model, ROWS, cache), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shown", [1, 0], ids=["a token", "a token that the mask hides in one row"])
def test_a_step_that_failed_in_the_middle_may_be_tried_again(shown: int) -> None:
    model, found = tiny_llava(), []
    with foveate.compress(model, METHOD), torch.no_grad():
        for failing in (False, True):
            cache, mask = own(model), ROWS["attention_mask"]
            model(**ROWS, **as_argument(cache))
            for step in range(3):
                mask = torch.cat([mask, torch.tensor([[1], [shown if step == 1 else 1]])], 1)
                inputs = {"input_ids": torch.tensor([[7 + step], [9]]), "attention_mask": mask, **as_argument(cache)}
                if failing:
                    hook = model.model.language_model.layers[2].register_forward_hook(_fails)
                    with pytest.raises(RuntimeError, match="in the middle"):
                        model(**inputs)
                    hook.remove()
                found.append(model(**inputs).logits)
    torch.testing.assert_close(torch.stack(found[3:]), torch.stack(found[:3]), atol=0, rtol=0)


def _fails(*_: Any) -> None:
    raise RuntimeError("in the middle")


def test_a_cache_that_its_caller_forgets_is_freed_while_the_handle_is_in_place() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        cache = own(model)
        decoded(model, ROWS, cache, steps=2)
        left = weakref.ref(cache)
        del cache
        gc.collect()
        assert left() is None


class Interrupted(Method):
    """A user presses Ctrl-C in the middle of a prompt: no hook after a forward runs then."""

    def score(self, view: View) -> Tensor:
        raise KeyboardInterrupt


@pytest.mark.parametrize("given", [DynamicCache, own], ids=["dynamic", "static"])
def test_compiled_code_runs_again_once_the_handle_of_an_interrupted_prompt_is_removed(given: Any) -> None:
    importlib.import_module("torch._dynamo")  # else nothing can be compiled, and nothing steps aside
    model = tiny_llava()
    cache = given() if given is DynamicCache else given(model)
    with foveate.compress(model, Interrupted(keep=4)), pytest.raises(KeyboardInterrupt):
        model(**ONE_ROW, **as_argument(cache))
    assert not steps_aside()


def test_threads_have_caches_of_their_own() -> None:
    model, found = tiny_llava(), {}
    prompts = [batch([prompt(3 + n, "image", 5 + 2 * n, seed=n)], seed=n) for n in range(3)]
    with foveate.compress(model, METHOD):
        expected = [generate(model, inputs, steps=4) for inputs in prompts]
        barrier = threading.Barrier(3)
        hook = model.model.language_model.layers[1].register_forward_pre_hook(lambda *_: (barrier.wait(timeout=60), None)[1])

        def run(number: int) -> None:
            found[number] = generate(model, prompts[number], steps=4, **as_argument(own(model)))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hook.remove()
    for number in range(3):
        same(found[number], expected[number])
