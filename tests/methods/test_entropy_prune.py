"""EntropyPrune against an example worked out by hand, against singular values, and the layer that it proposes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from methods_reference import decaying
from tiny import batch, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate import Method, Plan
from foveate.errors import HandleError, InputError, OptionError, UsageError
from foveate.measure.analysis.entropy_collapse import collapse_layer, entropy_by_layer
from foveate.methods import EntropyPrune
from foveate.methods.entropy_prune import ITERATIONS, matrix_entropy
from foveate.methods.information.axes import product_axes
from foveate.view import View


def heads_of(n: int, heads: int, width: int, seed: int = 0) -> Tensor:
    return decaying(n, heads * width, seed).view(n, heads, width)


def slow_entropy(token: np.ndarray, unit_trace: bool) -> float:
    """From the larger of the two Gram matrices, (width, width), the one that the method does not make."""
    heads = len(token)
    centred = token - token.mean(0)
    values = np.linalg.eigvalsh(sum(np.outer(head, head) for head in centred) / heads)
    values = np.sort(values)[::-1][:heads]
    values = np.concatenate([values, np.zeros(heads - len(values))])
    if unit_trace:
        values = values / max(values.sum(), 1e-10)
    values = np.maximum(values, 1e-10)
    return float(-sum(value * math.log(value) for value in values) / math.log(heads))


def test_an_example_worked_out_by_hand() -> None:
    # Two heads, (2, 0) and (0, 0): centred (1, 0) and (-1, 0), products 1 and -1, halved: eigenvalues 1 and 0, so the entropy is 0.
    # Half as long, eigenvalues are 1/4 and 0: -1/4 log(1/4) / log 2 = 1/2. Equal heads have none. As shares all are 1 and 0.
    tokens = torch.tensor([[[2.0, 0], [0, 0]], [[1, 0], [0, 0]], [[3, 1], [3, 1]]])
    torch.testing.assert_close(matrix_entropy(tokens), torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(matrix_entropy(tokens, unit_trace=True)[:2], torch.zeros(2, dtype=torch.float64), atol=1e-7, rtol=0)
    view = View(torch.zeros(3, 4), (1, 1, 3), queries=tokens)
    assert EntropyPrune(keep=1).plan(view).kept.tolist() == [1]


@pytest.mark.parametrize("unit_trace", [False, True])
@pytest.mark.parametrize(("heads", "width"), [(3, 5), (4, 3), (8, 16), (12, 4)])
def test_it_agrees_with_the_larger_gram_matrix_for_every_budget(heads: int, width: int, unit_trace: bool) -> None:
    queries = heads_of(20, heads, width, seed=heads)
    truth = [slow_entropy(token, unit_trace) for token in queries.double().numpy()]
    found = matrix_entropy(queries, unit_trace=unit_trace)
    torch.testing.assert_close(found, torch.tensor(truth, dtype=torch.float64), atol=1e-7, rtol=1e-7)
    order = sorted(range(20), key=lambda token: -truth[token])
    view = View(torch.zeros(20, 4), (1, 4, 5), queries=queries)
    for keep in range(1, 21):
        assert EntropyPrune(keep, unit_trace=unit_trace).plan(view).kept.tolist() == sorted(order[:keep])


@pytest.mark.parametrize(("heads", "width"), [(4, 16), (16, 64), (32, 128)])
def test_products_alone_give_the_entropy_that_a_decomposition_gives(heads: int, width: int) -> None:
    queries = torch.randn(40, heads, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = queries - queries.mean(1, keepdim=True)
    values = product_axes(centred @ centred.mT / heads, ITERATIONS)[1].double().square().clamp(min=1e-10)
    found = -(values * values.log()).sum(-1) / math.log(heads)
    torch.testing.assert_close(found, matrix_entropy(queries), atol=1e-3, rtol=1e-3)


def test_equal_tokens_are_taken_from_the_first_on() -> None:
    queries = heads_of(1, 4, 6).expand(9, 4, 6).clone()
    view = View(torch.zeros(9, 4), (1, 3, 3), queries=queries)
    assert EntropyPrune(keep=4).plan(view).kept.tolist() == [0, 1, 2, 3]
    assert EntropyPrune(keep=4).plan(View(torch.zeros(9, 4), (1, 3, 3), queries=queries[:, :1])).kept.tolist() == [0, 1, 2, 3]


def test_it_reads_what_its_source_says() -> None:
    assert EntropyPrune(keep=3).needs == {"queries"}
    assert EntropyPrune(keep=3, source="keys").needs == {"keys"}
    with pytest.raises(OptionError, match="source='values' is not known; choose 'queries' or 'keys'"):
        EntropyPrune(keep=3, source="values")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="unit_trace=1"):
        EntropyPrune(keep=3, unit_trace=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_queries_that_are_no_numbers_are_refused(value: float) -> None:
    queries = heads_of(9, 4, 6)
    queries[3, 1, 2] = value
    with pytest.raises(InputError, match="the queries of an image contain NaN or infinity"):
        EntropyPrune(keep=3).plan(View(torch.zeros(9, 4), (1, 3, 3), queries=queries))


@dataclass(frozen=True)
class Spy(Method):
    """Keeps every token, and what it was shown."""

    keep: int | float = 1.0
    seen: list[View] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"queries"})

    def plan(self, view: View) -> Plan:
        self.seen.append(view)
        return Plan.identity(len(view))


def test_the_entropy_of_every_layer_is_what_its_queries_give_and_the_largest_drop_is_proposed() -> None:
    model, inputs = tiny_llava(layers=6), batch([prompt(3, "image", 5), prompt(2, "image", 4, seed=1)])
    truth = []
    for layer in range(1, 6):
        spy = Spy(layer=layer)
        with foveate.compress(model, spy), torch.no_grad():
            model(**inputs)
        truth.append(float(torch.cat([matrix_entropy(view.signal("queries")) for view in spy.seen]).mean()))
    found = entropy_by_layer(model, inputs)
    assert found == pytest.approx(truth, rel=1e-5)
    drops = [before - after for before, after in itertools.pairwise(found)]
    assert collapse_layer(model, inputs) == 1 + drops.index(max(drops))
    assert foveate.handle_of(model) is None


def test_a_calibration_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no image in the calibration inputs"):
        entropy_by_layer(tiny_llava(), {"input_ids": torch.tensor([prompt(7)])})
    with pytest.raises(UsageError, match="entropy of 1 layer"):
        collapse_layer(tiny_llava(layers=2), batch([prompt(3, "image", 5)]))
    model = tiny_llava()
    with foveate.compress(model, EntropyPrune(keep=3)), pytest.raises(HandleError):
        collapse_layer(model, batch([prompt(3, "image", 5)]))
