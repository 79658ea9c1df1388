"""Fast information: as accurate as promised, with products alone, for images of unequal size, and without a wait."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from methods_reference import GOLDEN, decaying, golden_case, slow_information
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import foveate
import foveate.demo
from foveate.errors import InputError
from foveate.methods import FastV, TokenCarve, information_contribution, information_method
from foveate.methods.information import contribution, information_contributions
from foveate.methods.information.axes import principal_axes, product_axes
from foveate.methods.information.fast import fast_scores
from foveate.view import View

on_accelerators = partial(fast_scores, axes=product_axes)
"""What runs on an accelerator, on the CPU."""


def embedded(shape: str, scenes: int) -> list[View]:
    """What TokenCarve sees of held-out scenes in an embedded model."""
    seen: list[View] = []

    class Spy(FastV):
        def plans(self, views: Any) -> Any:
            seen.extend(views)
            return super().plans(views)

    model, processor = foveate.demo.load(shape=shape)
    with foveate.compress(model, Spy(keep=1)), torch.no_grad():
        for seed in range(scenes):
            scene = foveate.demo.scene(seed, "held_out")
            model(**processor(images=scene.image, text=foveate.demo.prompt(scene.questions[0].text), return_tensors="pt"))
    return seen


def shared(first: Tensor, second: Tensor) -> float:
    return len(set(first.tolist()) & set(second.tolist())) / len(first)


@pytest.fixture(params=["cpu", "accelerator"])
def algorithm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "accelerator":
        monkeypatch.setattr(contribution, "fast_scores", on_accelerators)
    return str(request.param)


@pytest.mark.parametrize("shape", ["llava", "qwen2-vl"])
@pytest.mark.usefixtures("algorithm")
def test_on_the_embedded_models_97_of_100_kept_tokens_are_those_of_exact_scores(shape: str) -> None:
    views = embedded(shape, 8)
    assert len(views) == 8
    for keep in (128, 64):
        pairs = [[TokenCarve(keep, information=kind).plan(view).kept for kind in ("exact", "fast")] for view in views]  # type: ignore[arg-type]
        assert sum(shared(*pair) for pair in pairs) / len(pairs) >= 0.97


@pytest.mark.usefixtures("algorithm")
def test_on_hidden_states_of_576_tokens_the_best_are_nearly_the_same() -> None:
    cases = [golden_case(path)[0] for path in GOLDEN if "576" in path.stem]
    assert len(cases) == 2
    for case in cases:
        states = torch.from_numpy(case["hidden"])
        exact, fast = (information_contribution(states, kind) for kind in ("exact", "fast"))  # type: ignore[arg-type]
        assert shared(exact.topk(192).indices, fast.topk(192).indices) >= 0.97
        assert float((fast / exact).std()) < 0.03


@pytest.mark.parametrize(("name", "best"), [("power 0.5", 0.75), ("power 1", 0.96), ("exponential 20", 0.99), ("exponential 100", 0.8)])
@pytest.mark.usefixtures("algorithm")
def test_flat_and_steep_spectra(name: str, best: float) -> None:
    k = torch.arange(1, 577).double()
    singular = k ** -float(name.split()[1]) if name.startswith("power") else torch.exp(-k / float(name.split()[1]))
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(m, 576, generator=generator, dtype=torch.float64)).Q for m in (576, 1024))
    states = (left * singular @ right.mT).float()
    exact, fast = (information_contribution(states, kind) for kind in ("exact", "fast"))  # type: ignore[arg-type]
    assert shared(exact.topk(128).indices, fast.topk(128).indices) >= best
    assert float(fast.mean() / exact.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["steep", "slow", "equal"])
@pytest.mark.parametrize("rank", [1, 2, 17, 64, 128])
def test_products_find_the_axes_that_a_decomposition_finds(rank: int, kind: str) -> None:
    k = torch.arange(200).double()
    singular = {"steep": 2.0 ** -(k / 4), "slow": (k + 1) ** -0.7, "equal": k * 0 + 1}[kind]
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.linalg.qr(torch.randn(m, 200, generator=generator, dtype=torch.float64)).Q for m in (250, 300))
    states = (left * singular @ right.mT)[None]
    # As the subspace iteration of fast scores leaves it: nearly diagonal, and falling.
    basis = torch.linalg.qr(states @ torch.randn(300, rank, generator=generator, dtype=torch.float64)).Q
    for _ in range(2):
        basis = torch.linalg.qr(states @ (states.mT @ basis)).Q
    rows = basis.mT @ states
    gram = rows @ rows.mT
    vectors, lengths = product_axes(gram)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(rank)[None], rtol=0, atol=4e-3)
    expected = principal_axes(gram)[1].sort(descending=True).values
    torch.testing.assert_close(lengths.double().sort(descending=True).values, expected, rtol=1e-2, atol=1e-6)
    first, second = (
        (basis @ axes.double()).abs() @ sizes.double().unsqueeze(-1) for axes, sizes in ((vectors, lengths), principal_axes(gram))
    )
    assert float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) > (
        0.999 if kind == "steep" else 0.97 if kind == "slow" else 0.1
    )


@pytest.mark.parametrize("kind", ["random", "equal columns", "one huge", "zero", "tiny", "large"])
def test_products_stay_finite_and_orthogonal_from_any_start(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(3, 200, 128, generator=generator, dtype=torch.float64)
    if kind == "equal columns":
        columns = columns[..., :1].expand(-1, -1, 128)
    elif kind == "one huge":
        columns[..., 77] *= 1e8
    columns = columns * {"zero": 0, "tiny": 1e-30, "large": 1e15}.get(kind, 1)
    gram = columns.mT @ columns
    for iterations in (1, 4, 10, 30):
        vectors, lengths = product_axes(gram, iterations)
        assert vectors.isfinite().all()
        assert lengths.isfinite().all()
        # Turning preserves energy.
        energy = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(lengths.double().square().sum(-1), energy, rtol=0.05, atol=1e-30)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(128).expand(3, -1, -1), rtol=0, atol=4e-3)


def test_degenerate_states_have_finite_scores_on_accelerators() -> None:
    low_rank = torch.randn(150, 3, generator=torch.Generator().manual_seed(0)) @ decaying(3, 100, 1)
    for states in (torch.zeros(150, 100), torch.ones(150, 100), torch.eye(150), low_rank, 1e-12 * low_rank, 1e6 * low_rank):
        scores, finite = on_accelerators([states])
        assert finite.all()
        assert scores[0].isfinite().all()
        assert (scores[0] >= 0).all()
    expected = torch.from_numpy(slow_information(low_rank.numpy()))
    torch.testing.assert_close(on_accelerators([low_rank])[0][0].double(), expected, rtol=2e-3, atol=0)


def test_images_of_unequal_size_are_scored_as_alone() -> None:
    images = [decaying(n, 160, n) for n in (40, 200, 130, 128, 255)]
    together, finite = on_accelerators(images)
    assert finite.tolist() == [True] * 5
    for image, scores in zip(images, together, strict=True):
        alone = on_accelerators([image])[0][0]
        assert scores.shape == (len(image),)
        torch.testing.assert_close(scores, alone, rtol=5e-3, atol=0)
        assert shared(scores.topk(20).indices, alone.topk(20).indices) >= 0.9


def test_each_image_is_flagged_by_itself() -> None:
    images = [decaying(150, 100, seed) for seed in range(3)]
    images[1][7, 5] = float("nan")
    images[2][0, 0] = float("inf")
    for kind in ("exact", "fast"):
        assert information_contributions(images, kind)[1].tolist() == [True, False, False]  # type: ignore[arg-type]


class Operations(TorchDispatchMode):
    """Counts operations, each of them one launch or more on an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket is not torch.ops.aten._unsafe_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sizes", [(576,), (576,) * 8, (576, 600, 1000, 700)])
def test_nothing_waits_and_a_batch_takes_no_more_operations_than_an_image(sizes: tuple[int, ...]) -> None:
    # A meta tensor has no values, so whatever reads one fails.
    images = [torch.empty(n, 1024, device="meta", dtype=torch.bfloat16) for n in sizes]
    fast_scores(images)
    with Operations() as operations:
        scores, finite = fast_scores(images)
    assert [score.shape for score in scores] == [(n,) for n in sizes]
    assert finite.shape == (len(sizes),)
    assert len(operations.names) <= 290 + 2 * len(sizes)


@pytest.mark.parametrize(
    ("tokens", "width", "device", "method"),
    [
        (576, 4096, "cpu", "exact"),
        (576, 4096, "cuda", "fast"),
        (1, 1, "cuda:1", "fast"),
        (2304, 4096, "cpu", "exact"),
        (2305, 4096, "cpu", "fast"),
        (6400, 3584, "cpu", "fast"),
        (6400, 192, "cpu", "exact"),
    ],
)
def test_auto_says_what_it_takes(tokens: int, width: int, device: str, method: str) -> None:
    assert information_method(tokens, width, device) == method


def test_auto_is_the_default_and_takes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("exact", "fast"):
        original = getattr(contribution, f"{name}_scores")
        monkeypatch.setattr(
            contribution, f"{name}_scores", lambda states, name=name, original=original: calls.append(name) or original(states)
        )
    view = View(decaying(60, 30, 0), (1, 6, 10), last_attention=torch.rand(60, generator=torch.Generator().manual_seed(0)))
    assert TokenCarve(keep=20).information == "auto"
    TokenCarve(keep=20).plan(view)
    monkeypatch.setattr(contribution, "EXACT_SIZE", 60 * 30 - 1)
    TokenCarve(keep=20).plan(view)
    assert calls == ["exact", "fast"]


def sides(states: Tensor, method: str) -> Iterator[int]:
    """Numbers in each tensor that scoring makes."""

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            found.extend(each.numel() for each in (made if isinstance(made, tuple | list) else [made]) if isinstance(each, Tensor))
            return made

    found: list[int] = []
    with Sizes():
        information_contributions([states], method)  # type: ignore[arg-type]
    yield from found


def test_auto_makes_no_matrix_of_tokens_by_tokens_for_6400_tokens() -> None:
    states = decaying(6400, 320, 0)
    assert max(sides(states, "auto")) < 6400 * 400
    assert max(sides(decaying(600, 800, 0), "auto")) >= 600 * 600


def test_exact_refuses_what_would_need_too_much_memory() -> None:
    states = torch.zeros(6400, 1).expand(6400, 6000)
    with pytest.raises(
        InputError,
        match=r"exact information of 6400 x 6000 states needs a 6000 x 6000 float64 matrix \(275 MiB\).*256 MiB.*'fast' or 'auto'",
    ):
        information_contributions([states], "exact")
    assert information_method(6400, 6000, "cpu") == "fast"
