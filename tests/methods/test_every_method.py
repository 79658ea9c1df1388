"""What holds for every method, whatever the budget, the shape and the dtype."""

from __future__ import annotations

import atexit
import dataclasses
import json
from collections.abc import Callable
from tempfile import TemporaryDirectory

import pytest
import torch
from compressors import NOBODY, untrained
from methods_reference import decaying
from on_gpu import same_everywhere

import foveate.methods
from foveate.method import Method
from foveate.methods import (
    DART,
    EVS,
    CDPruner,
    DivPrune,
    EntropyPrune,
    Explainer,
    FastV,
    FirstLayerAttention,
    MMTok,
    Oracle,
    Pool,
    PruMerge,
    PyramidDrop,
    Random,
    Scope,
    SparseVLM,
    TokenCarve,
    ToMe,
    TowerAttention,
    V2Drop,
    VidCom2,
    VisionZip,
    find_method,
    methods,
)
from foveate.plan import Plan
from foveate.view import SIGNALS, View

pytestmark = pytest.mark.one_version

_HOME = TemporaryDirectory()
atexit.register(_HOME.cleanup)
COMPRESSOR = str(untrained().save_pretrained(_HOME.name))

# One row per method or option that makes a difference: a method joins the whole matrix with one line.
MAKERS: dict[str, Callable[[int | float], Method]] = {
    "cdpruner": CDPruner,
    "cdpruner-centred": lambda keep: CDPruner(keep, centred=True),
    "cdpruner-diversity": lambda keep: CDPruner(keep, relevance_weight=0),
    "cdpruner-later": lambda keep: CDPruner(keep, layer=2),
    "dart": DART,
    "dart-image-pivots": lambda keep: DART(keep, image_pivots=9, text_pivots=0),
    "dart-text-pivots": lambda keep: DART(keep, image_pivots=0, text_pivots=2),
    "divprune": DivPrune,
    "divprune-centred": lambda keep: DivPrune(keep, centred=True),
    "divprune-later": lambda keep: DivPrune(keep, layer=2),
    "evs": EVS,
    "entropyprune": EntropyPrune,
    "entropyprune-keys": lambda keep: EntropyPrune(keep, source="keys", unit_trace=True),
    "explainer": lambda keep: Explainer(keep, compressor=COMPRESSOR),
    "fastv": FastV,
    "firstlayerattention": FirstLayerAttention,
    "mmtok": MMTok,
    "mmtok-projected": lambda keep: MMTok(keep, layer=2, features="projected"),
    "pool": Pool,
    "prumerge": PruMerge,
    "prumerge-later": lambda keep: PruMerge(keep, layer=2),
    "pyramiddrop": PyramidDrop,
    "random": Random,
    "scope": Scope,
    "scope-coverage": lambda keep: Scope(keep, alpha=0),
    "scope-later": lambda keep: Scope(keep, layer=2),
    "sparsevlm": SparseVLM,
    "sparsevlm-drop": lambda keep: SparseVLM(keep, recycle=False),
    "tokencarve": TokenCarve,
    "tokencarve-fast": lambda keep: TokenCarve(keep, information="fast"),
    "tokencarve-attention-output": lambda keep: TokenCarve(keep, source="attention_output"),
    "tokencarve-information": lambda keep: TokenCarve(keep, attention_weight=0),
    "tokencarve-drop": lambda keep: TokenCarve(keep, stage_one=1),
    "tokencarve-merge": lambda keep: TokenCarve(keep, attention_weight=0.7, stage_one=2),
    "tome": ToMe,
    "tome-later": lambda keep: ToMe(keep, layer=2),
    "towerattention": TowerAttention,
    "vidcom2": VidCom2,
    "visionzip": VisionZip,
    "visionzip-contextual": lambda keep: VisionZip(keep, layer=2, contextual=1.0),
    "visionzip-dominant": lambda keep: VisionZip(keep, contextual=0.0),
    "v2drop": V2Drop,
}
AT_THE_INPUT = (
    *(CDPruner, DivPrune, EVS, Explainer, FirstLayerAttention, MMTok, PruMerge, Scope, ToMe, TowerAttention, VidCom2, VisionZip),
)
"""Act before layer 0 by default, the others before layer 2."""
QUESTION = 5
"""Question tokens of a view."""
OF_QUESTION = ("question_keys", "question_states", "question_embeddings")
BY_ROW = ("head_attention", "text_attention")
GRIDS = [(1, 1, 1), (1, 1, 2), (1, 3, 3), (1, 5, 7), (3, 2, 3), (1, 10, 10)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every_method = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def view_of(grid: tuple[int, int, int], d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> View:
    n = grid[0] * grid[1] * grid[2]
    attention = torch.rand(n, generator=torch.Generator().manual_seed(seed)) / n
    heads = torch.rand(NOBODY.heads, n, generator=torch.Generator().manual_seed(seed + 2)) / n
    return View(
        decaying(n, d, seed).to(dtype),
        grid,
        attention.to(dtype),
        decaying(n, d, seed + 1).to(dtype),
        fingerprint=seed,
        head_attention=heads.to(dtype),
        tower_attention=torch.rand(n, generator=torch.Generator().manual_seed(seed + 3)).to(dtype) / n,
        projected_states=decaying(n, d, seed + 4).to(dtype),
        tower_states=decaying(n, d + 2, seed + 13).to(dtype),
        text_attention=torch.rand(QUESTION, n, generator=torch.Generator().manual_seed(seed + 5)).to(dtype) / n,
        next_attention=torch.rand(n, generator=torch.Generator().manual_seed(seed + 6)).to(dtype) / n,
        queries=decaying(n, 4 * d, seed + 12).to(dtype).view(n, 4, d),
        keys=decaying(n, 2 * d, seed + 7).to(dtype).view(n, 2, d),
        question_keys=decaying(QUESTION, 2 * d, seed + 8).to(dtype).view(QUESTION, 2, d),
        earlier_states=decaying(n, d, seed + 9).to(dtype),
        question_states=decaying(QUESTION, d, seed + 10).to(dtype),
        question_embeddings=decaying(QUESTION, d, seed + 11).to(dtype),
    )


def given(view: View) -> list[str]:
    """The signals that a view has."""
    return [name for name in SIGNALS if getattr(view, name) is not None]


def check(plan: Plan, keep: int, tokens: int) -> None:
    assert len(plan) == tokens
    assert plan.tokens_after == keep
    assert plan.kept.tolist() == sorted(set(plan.kept.tolist()))
    assert plan.tokens_after + plan.merged.numel() + plan.dropped.numel() == tokens
    assert Plan.from_list(plan.to_list()) == plan


@every_method
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [3, 80])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_budget_is_met_exactly(make: Callable[[int | float], Method], grid: tuple[int, int, int], d: int, dtype: torch.dtype) -> None:
    view = view_of(grid, d, dtype)
    n, t = len(view), grid[0]
    for keep in sorted({1, 2, n // t // 3, n // t - 1, n // t} & set(range(1, n // t + 1))):
        plan = make(keep).plan(view)
        check(plan, keep * t, n)
        assert plan.merge(view.states).dtype == dtype
    for share in (0.01, 0.25, 0.9, 1.0):
        check(make(share).plan(view), make(share).budget(n, t), n)


@every_method
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_keeping_all_tokens_changes_nothing(make: Callable[[int | float], Method], grid: tuple[int, int, int]) -> None:
    view = view_of(grid, 8)
    plan = make(1.0).plan(view)
    assert plan == Plan.identity(len(view))
    assert torch.equal(plan.merge(view.states), view.states)


@every_method
def test_a_batch_is_planned_as_its_images_one_by_one(make: Callable[[int | float], Method]) -> None:
    views = [view_of(grid, 80, seed=seed) for seed, grid in enumerate([(1, 5, 7), (1, 10, 10), (1, 5, 7), (1, 3, 3), (1, 10, 10)])]
    method = make(0.3)
    assert method.plans(views) == [method.plan(view) for view in views]
    assert method.plans(views[::-1]) == method.plans(views)[::-1]
    assert method.plans([]) == []


@pytest.mark.gpu
@every_method
def test_a_gpu_chooses_as_the_cpu_does(make: Callable[[int | float], Method]) -> None:
    view = view_of((1, 10, 10), 80, torch.float64)
    on_gpu = View(view.states.cuda(), view.grid, **{name: view.signal(name).cuda() for name in given(view)})
    method = same_everywhere(make(30))
    assert method.plan(on_gpu) == method.plan(view)


@every_method
def test_a_view_is_left_as_it_was(make: Callable[[int | float], Method]) -> None:
    view, again = view_of((1, 5, 7), 80), view_of((1, 5, 7), 80)
    first = make(9).plan(view)
    assert make(9).plan(view) == first
    assert set(given(again)) == SIGNALS.keys()
    for name in ("states", *given(again)):
        assert torch.equal(getattr(view, name), getattr(again, name))


@every_method
def test_tokens_left_by_an_earlier_cut_can_be_cut_again(make: Callable[[int | float], Method]) -> None:
    view = view_of((1, 5, 7), 8)
    first = make(20).plan(view)
    kept = first.kept
    left = {
        name: view.signal(name)[:, kept] if name in BY_ROW else view.signal(name)[kept] for name in given(view) if name not in OF_QUESTION
    }
    left |= {name: view.signal(name) for name in OF_QUESTION}
    rest = View(first.merge(view.states), view.grid, index=kept, **left)
    second = make(6).plan(rest)
    check(second, 6, 20)
    check(first.then(second), 6, 35)


# Not of coverage alone: two tokens that gain as much from each other are a tie.
@pytest.mark.parametrize(
    "name",
    [
        "cdpruner",
        "divprune",
        "divprune-centred",
        "divprune-later",
        "fastv",
        "mmtok",
        "scope",
        "tokencarve-drop",
        "tokencarve-merge",
        "tokencarve-information",
        "towerattention",
        "vidcom2",
        "visionzip-dominant",
        *("dart", "entropyprune", "pyramiddrop", "sparsevlm", "v2drop"),
    ],
)
def test_a_permutation_of_the_tokens_permutes_the_plan(name: str) -> None:
    view = view_of((1, 5, 7), 80)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    method = MAKERS[name](9)
    if isinstance(method, TokenCarve) and 0 < method.attention_weight < 1:
        # At this weight no two of 35 tokens have equal sums of ranks, so no tie is broken by index.
        method = dataclasses.replace(method, attention_weight=0.437501)
    target = method.plan(view).target
    moved = {
        name: view.signal(name)[:, order] if name in BY_ROW else view.signal(name)[order] for name in given(view) if name not in OF_QUESTION
    }
    moved |= {name: view.signal(name) for name in OF_QUESTION}
    permuted = method.plan(View(view.states[order], view.grid, **moved)).target
    place = torch.empty_like(order).scatter(0, order, torch.arange(35))
    expected = torch.where(target[order] < 0, -1, place[target[order].clamp(min=0)])
    assert torch.equal(permuted, expected)


@every_method
def test_a_method_is_its_configuration(make: Callable[[int | float], Method]) -> None:
    method = make(9)
    fields = json.loads(json.dumps(dataclasses.asdict(method)))
    assert type(method)(**fields) == method
    assert hash(type(method)(**fields)) == hash(method)
    default = next(option.default for option in dataclasses.fields(method) if option.name == "layer")
    assert default == (0 if isinstance(method, AT_THE_INPUT) else 2)
    assert method.needs <= SIGNALS.keys()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.keep = 3  # type: ignore[misc]


def test_every_exported_method_is_registered_tested_and_described() -> None:
    exported = [getattr(foveate.methods, name) for name in foveate.methods.__all__ if name[0].isupper()]
    # Given the relevance of one batch, the oracle cannot join the matrix of views above; see the tests of its own.
    assert {Oracle, *(type(make(3)) for make in MAKERS.values())} == set(exported) == set(methods().values())
    for method in exported:
        assert find_method(method.__name__) is method
        assert method.summary().endswith(".")
        assert len(method.summary()) < 140
