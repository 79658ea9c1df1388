"""Compiled decoding steps on static caches: the same tokens, no hook in the traced code, and no more graphs than stock models need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tiny import batch, generate, prompt, tiny_llava
from torch import Tensor
from transformers import CompileConfig

import foveate
from foveate import FastV, TokenCarve
from foveate.engine import static

ONE_ROW, ROWS = batch([prompt(3, "image", 5)]), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
METHOD = FastV(keep=4)
STEPS = (3, 3, 6, 3)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "STEP", 4)  # tiny prompts would fill a step
    torch._dynamo.reset()


OLD = Version(transformers.__version__) < Version("5.24")
NEW = pytest.mark.skipif(OLD, reason="before 5.24 transformers makes the mask of a stock step outside the compiled code, and ours inside")


class Recorder:
    """A backend that compiles nothing and notes the operations of every graph that it is given."""

    def __init__(self) -> None:
        self.graphs: list[list[str]] = []

    def __call__(self, module: Any, inputs: Any) -> Callable[..., Any]:
        operations = [str(node.target) for node in module.graph.nodes if node.op != "placeholder"]
        if operations != ["output"]:  # the model's own hooks run outside its graph, and Dynamo looks at them too
            self.graphs.append(operations)
        return module.forward  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: Any) -> Recorder:
        return self  # transformers copies the options


def compiled(backend: Any = "eager", **options: Any) -> dict[str, Any]:
    """Options of `generate` that let transformers compile the decoding step on a CPU too."""
    config = CompileConfig(backend=backend, fullgraph=True, **{"mode": None, **options})
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def same(out: Any, expected: Any) -> None:
    assert torch.equal(out.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(out.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)


@NEW
@pytest.mark.parametrize("inputs", [ONE_ROW, ROWS], ids=["one row", "padded"])
def test_the_compiled_step_is_that_of_the_model_without_a_handle(inputs: dict[str, Tensor]) -> None:
    stock, ours = Recorder(), Recorder()
    generate(tiny_llava(layers=3), inputs, **compiled(stock))
    torch._dynamo.reset()
    model = tiny_llava(layers=3)
    with foveate.compress(model, METHOD):
        expected = generate(model, inputs)
        same(generate(model, inputs, **compiled(ours)), expected)
    assert len(ours.graphs) == len(stock.graphs) == 1
    assert ours.graphs == stock.graphs


@pytest.mark.parametrize("inputs", [ONE_ROW, ROWS], ids=["one row", "padded"])
def test_the_stock_inductor_gives_the_same_tokens(inputs: dict[str, Tensor]) -> None:
    model = tiny_llava(layers=3)
    with foveate.compress(model, METHOD):
        expected = generate(model, inputs, steps=8)
        out = generate(model, inputs, steps=8, **compiled("inductor", mode="default"))
    assert torch.equal(out.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(out.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)


def test_other_prompts_lengths_budgets_and_methods_never_run_stale_code() -> None:
    """In one sequence, as a server would; all handles together compile no more graphs than the model without one."""
    prompts = [batch([prompt(a, "image", b, seed=n)], seed=n) for n, (a, b) in enumerate([(3, 5), (6, 9), (2, 4)])]
    prompts.append(batch([prompt(3, "image", 5, seed=5), prompt(9, "image", 4, seed=6)], seed=5))
    stock, ours = Recorder(), Recorder()
    plain, options = tiny_llava(layers=3), compiled(stock)
    for inputs, steps in zip(prompts, STEPS, strict=True):
        generate(plain, inputs, steps=steps, **options)
    torch._dynamo.reset()
    model, options = tiny_llava(layers=3), compiled(ours)
    for method in (METHOD, TokenCarve(keep=7)):
        with foveate.compress(model, method):
            for inputs, steps in zip(prompts, STEPS, strict=True):
                expected = generate(model, inputs, steps=steps)
                same(generate(model, inputs, steps=steps, **options), expected)
        assert len(ours.graphs) <= len(stock.graphs) * (2 if OLD else 1)
    same(generate(model, prompts[0], steps=4, **options), generate(plain, prompts[0], steps=4))  # and without a handle
