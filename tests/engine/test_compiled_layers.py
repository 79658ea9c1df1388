"""The layers after the last cut as compiled code: the same logits as uncompiled, and a reason where there is none.

Most tests let a double stand in for torch.compile, which compiles nothing: what is padded, kept, bypassed and refused does not depend on
it. Those that ask for `traced` compile with a backend that runs what was traced, and those that ask for `inductor` with the stock one.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import METHODS, Fixed, batch, generate, keep_target, prompt, tiny_llava
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import foveate
from foveate import FastV, Method, TokenCarve, View
from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.compiled import CompiledUse, runner
from foveate.engine.compiled.bypass import Bypassed

STOCK = torch.compile


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not {"traced", "inductor"} & set(request.fixturenames):
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)


class Traced:
    """A backend that notes the operations of what it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[list[str]] = []

    def __call__(self, module: Any, inputs: Any) -> Callable[..., Any]:
        self.graphs.append([str(node.target) for node in module.graph.nodes if node.op != "placeholder"])
        return module.forward  # type: ignore[no-any-return]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    torch._dynamo.reset()
    backend = Traced()
    monkeypatch.setattr(torch, "compile", lambda function, **options: STOCK(function, **{**options, "backend": backend}))
    return backend


@pytest.fixture
def inductor() -> None:
    """The compiler that an installation has."""
    torch._dynamo.reset()


def given(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: value.to(dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def model_of(**options: Any) -> Any:
    return tiny_llava(dtype=torch.float64, **options)


def one(after: int = 5, seed: int = 0) -> dict[str, Tensor]:
    return given(batch([prompt(3, "image", after, seed=seed)], seed=seed))


UNEQUAL = [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1), prompt(4, "image", 3, seed=2)]


def logits(model: Any, inputs: dict[str, Tensor], steps: int = 5, **options: Any) -> Tensor:
    return torch.stack(generate(model, inputs, steps=steps, **options).logits, 1)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def use(handle: foveate.Handle) -> CompiledUse:
    assert handle.compiled is not None
    return handle.compiled


@contextlib.contextmanager
def compressed(model: Any, method: Any, **options: Any) -> Iterator[foveate.Handle]:
    with foveate.compress(model, method, compiled=True, **options) as handle:
        yield handle
    assert not any("forward" in layer.__dict__ for layer in model.model.language_model.layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "method", [*METHODS, FastV(keep=6, layer=0), FastV(keep=6, layer=3), [FastV(keep=9, layer=1), FastV(keep=4, layer=3)]], ids=repr
)
def test_logits_and_decoded_tokens_are_those_of_uncompiled_layers(method: Method, attention: str) -> None:
    # Eager attention takes its softmax in float32, whatever the model computes in.
    dtype, tolerance = {"sdpa": (torch.float64, 1e-9), "eager": (torch.float32, 2e-5)}[attention]
    model = tiny_llava(attention=attention, dtype=dtype)
    cases = [one(), batch([prompt(3, "image", 5), prompt(3, "image", 5, seed=1)])]
    cases += [batch(UNEQUAL, padding=padding) for padding in ("left", "right")]
    for trim in (True, False):
        for inputs in (given(case, dtype) for case in cases):
            with foveate.compress(model, method, trim_early_layers=trim) as handle:
                expected, images = logits(model, inputs), handle.report.images
            with compressed(model, method, trim_early_layers=trim) as handle:
                for times in (1, 2):
                    close(logits(model, inputs), expected, tolerance)
                    assert handle.report.images == images
                    assert (use(handle).compiled, use(handle).eager, use(handle).reason, use(handle).compilations) == (times, 0, None, 1)


def test_the_cache_holds_what_it_would_hold_and_goes_on_as_it_would() -> None:
    model, inputs, second = model_of(), one(), one(seed=3)
    found = []
    for compiled in (False, True):
        with foveate.compress(model, FastV(keep=6), compiled=compiled), torch.no_grad():
            cache = cache_of(model(**inputs))
            held = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
            text = model(input_ids=torch.tensor([[5, 6, 7]]), **as_argument(cache)).logits
            turn = {**second, "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 3 + second["input_ids"].shape[1])}
            found.append((held, text, model(**turn, **as_argument(cache)).logits, [type(layer) for layer in cache.layers]))
    for own, expected in zip(found[1][0], found[0][0], strict=True):
        close(own[0], expected[0])
        close(own[1], expected[1])
    close(found[1][1], found[0][1])
    close(found[1][2], found[0][2])
    assert found[1][3] == found[0][3]


def test_one_compilation_serves_all_lengths_up_to_a_multiple_and_each_sees_its_own_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STEP", 32)
    model = model_of()
    prompts = [one(after, seed=after) for after in (23, 5, 14, 30, 6)]  # with 3 + 6 tokens before: 32, 14, 23, 39 and 15
    with foveate.compress(model, FastV(keep=6)):
        expected = [logits(model, inputs) for inputs in prompts]
    with compressed(model, FastV(keep=6)) as handle:
        for inputs, own in zip(prompts, expected, strict=True):
            close(logits(model, inputs), own)
        assert (use(handle).compilations, use(handle).compiled) == (2, 5)
        assert use(handle).seconds > 0


def test_what_an_earlier_prompt_left_behind_reaches_nobody() -> None:
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)):
        expected = logits(model, inputs)
    with compressed(model, FastV(keep=6)) as handle:
        logits(model, one(20))
        stretch = next(iter(handle._schedule.late._stretches.values()))
        for tensor in (stretch._states, *stretch._rotary):
            tensor[..., :14, :].fill_(torch.nan)
        stretch._states.fill_(torch.nan)
        close(logits(model, inputs), expected)
        assert use(handle).compilations == 1


def test_what_is_returned_outlives_the_next_prompt() -> None:
    model = model_of()
    with compressed(model, FastV(keep=6)), torch.no_grad():
        output = model(**one())
        kept = output.logits.clone(), cache_of(output).layers[3].keys.clone()
        model(**one(6, seed=4))
        assert torch.equal(output.logits, kept[0])
        assert torch.equal(cache_of(output).layers[3].keys, kept[1])


def test_no_layer_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, calls = model_of(), one(), []
    forward = LlamaDecoderLayer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.self_attn.layer_idx)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    with compressed(model, FastV(keep=6)), torch.no_grad():
        model(**inputs)
        calls.clear()
        model(**inputs)
        assert calls == [0, 1, 2, 3]
        model(**inputs, use_cache=False)
        assert calls == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": False, "use_cache": False}], ids=repr)
def test_generating_otherwise_gives_the_same(options: dict[str, Any]) -> None:
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)):
        expected = generate(model, inputs, steps=6, **options)
    with compressed(model, FastV(keep=6)) as handle:
        found = generate(model, inputs, steps=6, **options)
        assert use(handle).compiled > 0
    assert torch.equal(found.sequences, expected.sequences)


def test_asked_columns_and_inference_mode_and_no_grad_take_turns() -> None:
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)), torch.no_grad():
        expected, last = model(**inputs).logits, model(**inputs, logits_to_keep=2).logits
    with compressed(model, FastV(keep=6)) as handle:
        for around in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with around():
                close(model(**inputs).logits, expected)
                close(model(**inputs, logits_to_keep=2).logits, last)
        assert (use(handle).compilations, use(handle).compiled) == (1, 6)


# What falls back.


def _gradients(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs)


@torch.no_grad()
def _hidden(model: Any, inputs: dict[str, Tensor]) -> Any:
    output = model(**inputs, output_hidden_states=True)
    output.logits = torch.cat([output.logits.flatten(), *(states.flatten() for states in output.hidden_states)])
    return output


@torch.no_grad()
def _training(model: Any, inputs: dict[str, Tensor]) -> Any:
    model.train()
    try:
        return model(**inputs)
    finally:
        model.eval()


@torch.no_grad()
def _autocast(model: Any, inputs: dict[str, Tensor]) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return model(**inputs)


def _hooked(model: Any, inputs: dict[str, Tensor], place: str = "mlp") -> Any:
    hook = model.model.language_model.layers[3].get_submodule(place).register_forward_hook(lambda *call: call[-1] * 2)
    try:
        with torch.no_grad():
            return model(**inputs)
    finally:
        hook.remove()


@torch.no_grad()
def _replaced(model: Any, inputs: dict[str, Tensor]) -> Any:
    module = model.model.language_model.layers[3].mlp
    own = module.forward
    module.forward = lambda states: own(states) * 2
    try:
        return model(**inputs)
    finally:
        del module.forward


@torch.no_grad()
def _counted(model: Any, inputs: dict[str, Tensor]) -> Any:
    with FlopCounterMode(display=False) as counter:
        output = model(**inputs)
    output.logits = torch.tensor([counter.get_total_flops()])
    return output


@torch.no_grad()
def _second_turn(model: Any, inputs: dict[str, Tensor]) -> Any:
    cache = DynamicCache()
    model(input_ids=torch.tensor([[7, 8, 9]]), **as_argument(cache))
    return model(**{**inputs, "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 3)}, **as_argument(cache))


@torch.no_grad()
def _tensor(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs, bias_of_mine=torch.ones(1))


FALLBACKS: dict[str, Callable[..., Any]] = {
    "gradients are recorded": _gradients,
    "output_hidden_states or output_attentions": _hidden,
    "training mode": _training,
    "autocast is on": _autocast,
    "hooks of others are registered on a LlamaMLP": _hooked,
    "hooks of others are registered on a LlamaDecoderLayer": functools.partial(_hooked, place=""),
    "something stands in for the forward of a LlamaMLP": _replaced,
    "a TorchDispatchMode watches every operation": _counted,
    "the cache holds tokens of an earlier turn": _second_turn,
    "the layers are given bias_of_mine, a Tensor": _tensor,
}


@pytest.mark.parametrize("reason", FALLBACKS)
def test_where_layers_cannot_run_compiled_they_run_as_they_are_and_the_reason_is_there(reason: str) -> None:
    model, inputs, run = model_of(), one(), FALLBACKS[reason]
    with foveate.compress(model, FastV(keep=6)), torch.no_grad():
        plain = model(**inputs).logits
        with torch.enable_grad():
            expected = run(model, inputs).logits
    model = model_of()  # without the hooks that transformers may have left in the other
    with compressed(model, FastV(keep=6)) as handle:
        with torch.no_grad():
            close(model(**inputs).logits, plain)
        found = run(model, inputs).logits
        assert reason in (use(handle).reason or "")
        assert (use(handle).compiled, use(handle).eager) == (1, 1)
        assert torch.equal(found, expected)
        with torch.no_grad():
            close(model(**inputs).logits, plain)
        assert (use(handle).compiled, use(handle).reason) == (2, None)


def test_without_it_nothing_is_compiled() -> None:
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)) as handle:
        logits(model, inputs)
        assert handle.compiled is None


def test_text_alone_runs_as_without_foveate() -> None:
    model, inputs = model_of(), given(batch([prompt(9)]))
    expected = logits(model, inputs)
    with compressed(model, FastV(keep=6)) as handle:
        assert torch.equal(logits(model, inputs), expected)
        assert use(handle) == CompiledUse()


def test_many_tokens_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_TOKENS", 20)
    model, inputs = model_of(), one(20)
    with compressed(model, FastV(keep=6)) as handle:
        logits(model, inputs)
        assert use(handle).reason == "29 tokens remain in the batch, and layers are compiled for at most 20"


def test_compilations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STEP", 1)
    monkeypatch.setattr(runner, "MOST_COMPILATIONS", 3)
    model = model_of()
    with compressed(model, FastV(keep=6)) as handle:
        for after in range(4, 10):
            logits(model, one(after))
        assert (use(handle).compilations, use(handle).compiled, use(handle).eager) == (3, 3, 3)
        assert "the layers are compiled for 3 other shapes already" in (use(handle).reason or "")
        logits(model, one(5))
        assert (use(handle).compilations, use(handle).reason) == (3, None)


def test_what_cannot_be_compiled_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def failing(function: Any, **_: Any) -> Any:
        def run(*args: Any) -> Any:
            tried.append(args)
            raise RuntimeError("cannot be lowered\nfor many reasons")

        return run

    monkeypatch.setattr(torch, "compile", failing)
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)):
        expected = logits(model, inputs)
    with compressed(model, FastV(keep=6)) as handle:
        for _ in range(2):
            assert torch.equal(logits(model, inputs), expected)
        assert use(handle).reason == "the layers cannot be compiled: RuntimeError: cannot be lowered"
        assert (use(handle).eager, use(handle).compilations, len(tried)) == (2, 0, 1)


# What changes under a handle.


def changed(model: Any, name: str) -> None:
    mlp: Any = model.model.language_model.layers[3].mlp
    if name == "in place":
        mlp.down_proj.weight.mul_(-1)
    elif name == "other data":
        mlp.down_proj.weight.data = -mlp.down_proj.weight
    elif name == "another parameter":
        mlp.down_proj.weight = torch.nn.Parameter(-mlp.down_proj.weight)
    else:
        mlp.down_proj = copy.deepcopy(mlp.down_proj)
        mlp.down_proj.weight.mul_(-1)


@pytest.mark.parametrize("name", ["in place", "other data", "another parameter", "another module"])
def test_changed_weights_are_used(name: str, traced: Traced) -> None:
    model, inputs = model_of(), one()
    with compressed(model, FastV(keep=6)) as handle, torch.no_grad():
        before = logits(model, inputs)
        changed(model, name)
        found = logits(model, inputs)
        assert (use(handle).compiled, use(handle).eager) == (2, 0)
        assert use(handle).compilations == len(traced.graphs) == (2 if name == "another module" else 1)
    with foveate.compress(model, FastV(keep=6)):
        close(found, logits(model, inputs))
    assert not torch.allclose(found[:, 0], before[:, 0])


# What is compiled.


def test_one_compilation_serves_every_way_of_calling(traced: Traced) -> None:
    model, prompts = model_of(), [one(5), one(20, seed=1), one(31, seed=2)]
    with foveate.compress(model, FastV(keep=6)):
        expected = [logits(model, inputs) for inputs in prompts]
    with compressed(model, FastV(keep=6)) as handle:
        for around in (torch.no_grad, torch.inference_mode):
            for inputs, own in zip(prompts, expected, strict=True):
                with around():
                    close(logits(model, inputs), own)
                    model(**inputs, use_cache=False, logits_to_keep=1)
        assert (use(handle).compilations, use(handle).compiled, use(handle).reason) == (1, 12, None)
    assert len(traced.graphs) == 1
    products = sum("linear" in name for name in traced.graphs[0])
    assert products == 2 * 7  # all of two layers, and nothing else


def test_padded_batches_compile_with_their_mask(traced: Traced) -> None:
    model, inputs = model_of(), given(batch(UNEQUAL))
    with foveate.compress(model, FastV(keep=6)):
        expected = logits(model, inputs)
    with compressed(model, FastV(keep=6)) as handle:
        for _ in range(2):
            close(logits(model, inputs), expected)
        assert (use(handle).compiled, use(handle).compilations, len(traced.graphs)) == (2, 1, 1)


def test_no_hook_is_in_the_compiled_code_and_each_runs_once(traced: Traced) -> None:
    model, inputs = model_of(), one()
    with compressed(model, FastV(keep=6)) as handle, torch.no_grad():
        model(**inputs)
        running, seen = handle._passes.own, []
        before = handle._before_layer

        def counted(index: int, *args: Any) -> Any:
            seen.append((index, torch.compiler.is_compiling()))
            return before(index, *args)

        for index, layer in enumerate(model.model.language_model.layers):
            (key,) = layer._forward_pre_hooks
            monkeypatched = functools.partial(counted, index)
            monkeypatched.func.__module__ = before.__module__
            layer._forward_pre_hooks[key] = monkeypatched
        model(**one(60))
        assert seen == [(index, False) for index in range(4)]
        assert running is handle._passes.own
        assert use(handle).compilations == 2


def test_compiled_code_that_is_told_to_step_aside_does() -> None:
    model, inputs = model_of(), one()
    with foveate.compress(model, FastV(keep=6)):
        expected = logits(model, inputs)
    with compressed(model, FastV(keep=6)) as handle:
        with torch.compiler.set_stance("force_eager"):
            assert torch.equal(logits(model, inputs), expected)
        assert use(handle) == CompiledUse(eager=1, reason="compiled code is told to step aside, by torch.compiler.set_stance")
        close(logits(model, inputs), expected)
        assert (use(handle).compilations, use(handle).reason) == (1, None)


def test_hooks_of_transformers_inside_the_layers_are_not_compiled(traced: Traced) -> None:
    model, inputs = model_of(), one()
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True, output_attentions=True).logits
        with compressed(model, FastV(keep=1.0)) as handle:
            close(model(**inputs).logits, expected)
            assert "transformers has put hooks into the layers" in (use(handle).reason or "")


@pytest.mark.parametrize("static", [False, True])
def test_stock_inductor_gives_the_logits_of_uncompiled_layers(static: bool, inductor: None) -> None:
    model = tiny_llava()
    options = {"cache_implementation": "static"} if static else {}
    prompts = [batch([prompt(3, "image", after, seed=after)], seed=after) for after in (5, 30)]
    if not static:
        prompts.append(batch(UNEQUAL))
    with foveate.compress(model, FastV(keep=6)):
        expected = [logits(model, inputs, **options) for inputs in prompts]
    with compressed(model, FastV(keep=6)) as handle:
        for inputs, own in zip(prompts, expected, strict=True):
            for _ in range(2):
                close(logits(model, inputs, **options), own, 1e-4)
        assert (use(handle).reason, use(handle).compiled) == (None, 2 * len(prompts))
        assert use(handle).compilations == (1 if static else 2)
        with torch.no_grad():
            changed(model, "in place")
        found = logits(model, prompts[0], **options)
    with foveate.compress(model, FastV(keep=6)):
        close(found, logits(model, prompts[0], **options), 1e-4)


# What else changes under a handle.


def test_adapters_run_uncompiled_until_they_are_merged() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model, inputs = peft.get_peft_model(model_of(), config).eval(), one()
    with foveate.compress(model, FastV(keep=6), compiled=True) as handle:
        expected = logits(model, inputs)
        assert "adapters are in place" in (use(handle).reason or "")
        with model.disable_adapter():
            logits(model, inputs)
        merged = model.merge_and_unload()
        close(logits(merged, inputs), expected)
        assert use(handle).reason is None


def test_another_attention_implementation_is_compiled_for_itself() -> None:
    model, inputs = model_of(), one()
    with compressed(model, FastV(keep=6)) as handle:
        expected = logits(model, inputs)
        model.set_attn_implementation("eager")
        close(logits(model, inputs), expected, 2e-5)
        assert (use(handle).compilations, use(handle).reason) == (2, None)


def test_a_copy_of_the_model_has_code_of_its_own() -> None:
    model, inputs = model_of(), one()
    with compressed(model, FastV(keep=6)) as handle:
        loaded = pickle.loads(pickle.dumps(model))  # before transformers registers hooks that cannot be pickled
        expected = logits(model, inputs)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            model.model.language_model.layers[3].mlp.down_proj.weight.mul_(-1)
        for other in (twin, loaded):
            own = foveate.handle_of(other)
            assert own is not None
            assert own.compiled == CompiledUse()
            close(logits(other, inputs), expected)
            assert own.compiled is not None
            assert own.compiled.compiled == 1
        assert use(handle).compiled == 1


def test_a_failed_prefill_leaves_nothing() -> None:
    class Refusing(FastV):
        def score(self, view: View) -> Tensor:
            if refuse:
                raise ValueError("not today")
            return super().score(view)

    model, inputs, refuse = model_of(), one(), True
    layers = model.model.language_model.layers
    with compressed(model, Refusing(keep=6)):
        with pytest.raises(ValueError, match="not today"):
            model(**inputs)
        assert not any("forward" in layer.__dict__ for layer in layers)
        refuse = False
        # After the compiled code has run, where the layers are bypassed.
        hook = layers[3].register_forward_pre_hook(lambda *call: 1 / 0)
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            model(**inputs)
        hook.remove()
        assert not any("forward" in layer.__dict__ for layer in layers)
        found = logits(model, inputs)
    with foveate.compress(model, Refusing(keep=6)):
        close(found, logits(model, inputs))


def test_a_removed_handle_gives_its_memory_back() -> None:
    model = model_of()
    with compressed(model, FastV(keep=6)) as handle:
        logits(model, one())
        assert handle._schedule.late._stretches
    assert not handle._schedule.late._stretches
    assert (use(handle).compilations, use(handle).compiled) == (1, 1)


# Threads.

WORKERS = 4


def test_threads_get_what_each_would_get_alone() -> None:
    """All are inside the bypassed layers at once, or one is while others decode."""
    model = model_of()
    prompts = [one(5 + 2 * n, seed=n) for n in range(WORKERS)]
    with foveate.compress(model, TokenCarve(keep=6)):
        expected = [logits(model, inputs) for inputs in prompts]
    barrier = threading.Barrier(WORKERS)
    with compressed(model, TokenCarve(keep=6)) as handle:

        def run(number: int) -> list[Tensor]:
            found = []
            for turn in range(4):
                barrier.wait(timeout=120)
                found.append(logits(model, prompts[number], steps=5 if turn % 2 else 2 + number))
            return found

        with ThreadPoolExecutor(WORKERS) as pool:
            for number, found in enumerate(pool.map(run, range(WORKERS))):
                for own in found:
                    close(own, expected[number][:, : own.shape[1]])
        assert (use(handle).compiled, use(handle).reason) == (4 * WORKERS, None)


def test_a_thread_that_bypasses_layers_does_not_take_them_from_another() -> None:
    model, inputs = model_of(), one()
    layers = model.model.language_model.layers
    full = logits(model, inputs)
    with compressed(model, Fixed(targets=(keep_target(range(6)),))):
        seen = []

        def meanwhile(*_: Any) -> None:
            if threading.current_thread() is not threading.main_thread() or seen:
                return
            assert isinstance(layers[3].__dict__["forward"], Bypassed)
            text = given(batch([prompt(9)]))
            with ThreadPoolExecutor(1) as pool:
                seen.append((pool.submit(logits, model, text).result(), text))

        handle = model.lm_head.register_forward_pre_hook(lambda *_: None)
        handle.remove()
        with torch.no_grad():
            hook = model.model.language_model.norm.register_forward_pre_hook(meanwhile)
            model(**inputs)
            hook.remove()
        found, text = seen[0]
    assert torch.equal(found, logits(model, text))
    assert torch.equal(full, logits(model, inputs))
