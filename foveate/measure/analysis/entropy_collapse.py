"""The layer where the matrix entropy of the visual tokens collapses, for `foveate.EntropyPrune`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compression import compress
from foveate.errors import UsageError
from foveate.families import family_of
from foveate.method import Method
from foveate.methods.entropy_prune import matrix_entropy
from foveate.plan import Plan
from foveate.view import View

__all__ = ["collapse_layer", "entropy_by_layer"]


def collapse_layer(model: nn.Module, inputs: Mapping[str, Any], *, unit_trace: bool = False) -> int:
    """The decoder layer before which EntropyPrune is to cut: the one at which the entropy of the visual tokens drops most.

    From https://arxiv.org/abs/2602.17196, whose abstract speaks of "a sharp and consistent drop". Here it is the largest difference
    between the mean entropies of two neighbouring layers, over all images of the calibration batch; of equal ones the earlier.

        layer = collapse_layer(model, inputs)
        foveate.compress(model, foveate.EntropyPrune(keep=128, layer=layer))

    Args:
        model: a loaded model of a known family, without a handle.
        inputs: a prompt of several images, or a batch, as the model takes them.
        unit_trace: as in `EntropyPrune`.

    Raises:
        UsageError: there is no visual token in the inputs, or the decoder has fewer than two layers to compare.
        HandleError: the model has a handle.
    """
    entropy = entropy_by_layer(model, inputs, unit_trace=unit_trace)
    if len(entropy) < 2:
        raise UsageError(f"the decoder gives the entropy of {len(entropy)} layer, and a drop is between two")
    drops = [before - after for before, after in itertools.pairwise(entropy)]
    return 1 + max(range(len(drops)), key=lambda index: (drops[index], -index))


def entropy_by_layer(model: nn.Module, inputs: Mapping[str, Any], *, unit_trace: bool = False) -> list[float]:
    """Mean matrix entropy of the visual tokens in each decoder layer but the last, from the queries there; nothing is removed.

    Args:
        model: a loaded model of a known family, without a handle.
        inputs: a prompt of several images, or a batch, as the model takes them.
        unit_trace: as in `EntropyPrune`.

    Raises:
        UsageError: there is no visual token in the inputs.
        HandleError: the model has a handle.
    """
    layers = len(family_of(model).layers(model))
    readers = [_Reader(layer=index + 1, unit_trace=unit_trace) for index in range(layers - 1)]
    with compress(model, readers), torch.no_grad():
        model(**inputs, use_cache=False)
    if readers and not readers[0].found:
        raise UsageError("there is no image in the calibration inputs, so no visual token has an entropy")
    return [float(torch.cat([part.cpu() for part in reader.found]).mean()) for reader in readers]


@dataclass(frozen=True)
class _Reader(Method):
    """Keeps all tokens, and the entropy of each in the layer before."""

    keep: int | float = 1.0
    unit_trace: bool = False
    found: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"queries"})

    def plan(self, view: View) -> Plan:
        self.found.append(matrix_entropy(view.signal("queries"), unit_trace=self.unit_trace))
        return Plan.deferred(torch.arange(len(view), device=view.states.device), len(view))
