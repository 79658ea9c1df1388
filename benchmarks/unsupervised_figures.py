"""From the parts of benchmarks/unsupervised.py to the figures that its tables and picture show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sights import BUDGETS, CUT, KINDS, QUARTER, SEEDS, SHARES, SWEPT, SWEPT_BESIDE, TOKENS, Sight, kind_of

from foveate.measure.analysis.correlation import estimate, resamples
from foveate.measure.analysis.information_loss import FULL, AnalysisCell
from foveate.measure.analysis.results import RESAMPLES, analyse
from foveate.measure.analysis.spectrum import MEASURES
from foveate.measure.statistics import mcnemar, wilson

Parts = Sequence[Mapping[str, Any]]
ANALYSED = {"TokenCarve": "tokencarve", "FastV": "fastv", "Pool": "pool", "Random": "random", "Norm": "norm"}
AT_INPUT = ("Explainer", "FirstLayerAttention", "DivPrune")
DRAWS = 10_000


def figures(shown: Sequence[Sight], parts: Parts, explanations: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """All figures of some pictures.

    Args:
        shown: the pictures.
        parts: what was measured of each.
        explanations: what was explained of some; `None` for the others.
    """
    families = [family for part in parts for family in part["families"]]
    full, blind = joined(parts, lambda part: part["full"]["right"]), joined(parts, lambda part: part["blind"])
    return {
        "pictures": len(parts),
        "questions": len(families),
        "families": {family: families.count(family) for family in dict.fromkeys(families)},
        "answers": {kind: answers(full, blind, mask) for kind, mask in masks(families)},
        "recall": recall(shown, parts, explanations, families, full),
        "sinks": [spread(rows) for rows in zip(*(part["sinks"] for part in parts), strict=True)],
        "sweep": sweep(parts, full, blind),
        "methods": methods(parts, explanations, full, blind),
        "information": information_loss(shown, parts),
    }


def joined(parts: Parts, of: Callable[[Mapping[str, Any]], str]) -> str:
    """Right answers to all questions in order."""
    return "".join(of(part) for part in parts)


def masks(families: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The questions of each kind, and all of them."""
    kinds = np.array([kind_of(family) for family in families])
    yield from ((kind, kinds == kind) for kind in KINDS)
    yield "all", np.ones(len(kinds), dtype=bool)


def share(right: str) -> dict[str, float]:
    """Right answers with Wilson's interval."""
    low, high = wilson(right.count("1"), len(right))
    return {"share": right.count("1") / len(right), "low": low, "high": high, "n": len(right)}


def answers(full: str, blind: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The uncompressed model's with the picture and without."""
    of = ["".join(mark for mark, own in zip(marks, mask, strict=True) if own) for marks in (full, blind)]
    return {"full": share(of[0]), "blind": share(of[1])} if of[0] else {}


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means over pictures, and the largest norm of any visual token."""
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    return {**means, "largest_of_all": round(max(row["largest"] for row in rows), 4)}


def cell(right: str, full: str, blind: str) -> dict[str, Any]:
    """Accuracy, its share of the full model's and of what the picture adds, with intervals from resampled questions."""
    own, whole, none = (np.array([int(mark) for mark in marks], dtype=float) for marks in (right, full, blind))
    picks = np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))
    a, b, c = (np.concatenate([[marks.mean()], marks[picks].mean(1)]) for marks in (own, whole, none))
    lost, won = int((whole > own).sum()), int((whole < own).sum())
    result: dict[str, Any] = {**share(right), "lost": lost, "won": won, "mcnemar_p": mcnemar(lost, won)}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, values in {"of_full": a / b, "of_image": (a - c) / (b - c)}.items():
            sound = values[np.isfinite(values)]
            if len(sound) == len(values):
                low, high = np.percentile(values[1:], (2.5, 97.5))
                result[name] = {"share": float(values[0]), "low": float(low), "high": float(high)}
    return result


def sweep(parts: Parts, full: str, blind: str) -> dict[str, dict[str, Any]]:
    """A quarter of the tokens from each layer on, by method and layer."""

    def at(name: str, layer: int) -> dict[str, Any]:
        return cell(joined(parts, lambda part: part["cells"][f"{name} {layer} {QUARTER}"]["right"]), full, blind)

    layers = {"TokenCarve": SWEPT, "FastV": SWEPT, "Pool": SWEPT_BESIDE, "Random": SWEPT_BESIDE}
    return {name: {str(layer): at(name, layer) for layer in own} for name, own in layers.items()}


def methods(parts: Parts, explanations: Sequence[Mapping[str, Any] | None], full: str, blind: str) -> dict[str, dict[str, Any]]:
    """Every method at its own layer and each budget; the oracle on the pictures that were explained."""
    found: dict[str, dict[str, Any]] = {}
    for name, layer in (*((name, 0) for name in AT_INPUT), *((name, CUT) for name in ANALYSED)):
        keys = {keep: f"{name} {layer} {keep}" for keep in BUDGETS}
        if all(own in part["cells"] for part in parts for own in keys.values()):
            cells = {
                str(keep): cell(joined(parts, lambda part, own=own: part["cells"][own]["right"]), full, blind) for keep, own in keys.items()
            }  # type: ignore[misc]
            found[name] = {"layer": layer, "budgets": cells}
    pairs = [(part, known) for part, known in zip(parts, explanations, strict=True) if known is not None]
    if pairs:
        own_full, own_blind = (
            joined([part for part, _ in pairs], of) for of in (lambda part: part["full"]["right"], lambda part: part["blind"])
        )
        oracle = {
            str(keep): cell(
                joined([known for _, known in pairs], lambda known, keep=keep: known["cells"][f"Oracle 0 {keep}"]["right"]),
                own_full,
                own_blind,
            )  # type: ignore[misc]
            for keep in BUDGETS
        }
        found["Oracle"] = {"layer": 0, "budgets": oracle, "full": share(own_full), "blind": share(own_blind)}
    return found


def recall(
    shown: Sequence[Sight], parts: Parts, explanations: Sequence[Mapping[str, Any] | None], families: Sequence[str], full: str
) -> dict[str, Any]:
    """What each signal finds of the relevant tokens, by kind of question, for all questions and for those answered right."""
    clusters = [picture.seed for picture in shown for _ in picture.asked]
    rows = [row for part in parts for row in part["recall"]]
    known = [row for part, own in zip(parts, explanations, strict=True) for row in (own["recall"] if own else [None] * len(part["recall"]))]
    there = np.array([row is not None for row in rows])
    right = np.array([mark == "1" for mark in full])
    found: dict[str, Any] = {}
    for of, chosen in {"all": there, "right": there & right}.items():
        for kind, mask in masks(families):
            index = np.flatnonzero(chosen & mask)
            if len(index):
                found.setdefault(of, {})[kind] = recalled(rows, known, clusters, index)
    return found


def recalled(rows: Sequence[Any], known: Sequence[Any], clusters: Sequence[int], index: NDArray[np.intp]) -> dict[str, Any]:
    """Means with 95 % intervals over resampled pictures, by signal, share and layer; and the best head, chosen in hindsight."""
    weights = resamples([clusters[number] for number in index], RESAMPLES)
    result: dict[str, Any] = {"n": len(index)}
    for signal in ("attention", "information", "norm"):
        result[signal] = {
            name: [over(weights, values) for values in np.array([rows[number][signal][name] for number in index]).T] for name in SHARES
        }
    heads = np.array([rows[number]["heads"] for number in index])
    layer, head = np.unravel_index(int(heads.mean(0).argmax()), heads.shape[1:])
    result["best_head"] = {"layer": int(layer), "head": int(head), **over(weights, heads[:, layer, head])}
    explained = [number for number in index if known[number] is not None]
    if explained:
        own = resamples([clusters[number] for number in explained], RESAMPLES)
        values = {name: over(own, np.array([known[number][name] for number in explained])) for name in SHARES}
        result["relevance"] = {"n": len(explained), **values}
    return result


def over(weights: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float | None]:
    """A mean with its interval; a resample without any of the questions does not count."""
    with np.errstate(invalid="ignore"):
        return {
            name: None if own is None else round(own, 4) for name, own in estimate((weights @ values) / weights.sum(1)).to_dict().items()
        }


def information_loss(shown: Sequence[Sight], parts: Parts) -> dict[str, Any]:
    """What `foveate analyse` concludes, from the cells before layer `CUT`."""

    def result(of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
        found: dict[str, list[float]] = {}
        for source in ("hidden_states", "attention_output"):
            for measure in MEASURES:
                found[f"{source} {CUT} {measure}"] = [row[measure] for part in parts for row in of(part)[source]]
        return {"right": joined(parts, lambda part: of(part)["right"]), "information": found}

    results = {AnalysisCell(FULL, TOKENS): result(lambda part: part["full"])}
    for name, own in ANALYSED.items():
        for keep in BUDGETS:
            for seed in SEEDS if name == "Random" else (None,):
                cell_name = f"{name} {CUT} {keep}" + (f" {seed}" if seed else "")
                results[AnalysisCell(own, keep, seed)] = result(lambda part, at=cell_name: part["cells"][at])  # type: ignore[misc]
    asked = [sample for picture in shown for sample in picture.asked]
    concluded = analyse(results, asked, [CUT])
    return {
        "settings": {"layer": CUT, "layers": [CUT]},
        "questions": len(asked),
        "scenes": len(shown),
        "seeds": len(SEEDS),
        **concluded,
    }
