"""EntropyPrune: keep the tokens whose heads differ most, by the matrix entropy of each token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError, OptionError
from foveate.method import Method
from foveate.methods.information.axes import product_axes
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["EntropyPrune", "matrix_entropy"]

SMALLEST = 1e-10
"""Eigenvalues below it count as it, as in the authors' code."""
ITERATIONS = 24
"""Of the Jacobi method on an accelerator: enough for matrices of any order, which `product_axes` by itself does not expect."""


@register
@dataclass(frozen=True)
class EntropyPrune(Method):
    """Keeps the tokens with the highest matrix entropy, that is, those whose attention heads differ most; reads no attention.

    Paper: "EntropyPrune: Matrix Entropy Guided Visual Token Pruning for Multimodal Large Language Models",
    https://arxiv.org/abs/2602.17196. A token's queries in the layer before are a matrix of heads x head width. Its entropy is that of
    the eigenvalues of the matrix of products between heads, the smaller of the two Gram matrices, which share their spectrum
    (`matrix_entropy`). The paper cuts before the layer where the entropy of the visual tokens collapses, layer 2 of LLaVA-1.5-7B;
    `foveate.measure.analysis.entropy_collapse` finds that layer.

    This follows the paper's abstract and the authors' code (commit 9fc1cbb); the full text was not read. The code does not divide by
    the trace, so its value depends on the length of the queries, and more on that than on their spread where eigenvalues exceed 1;
    `unit_trace` gives the entropy of shares instead. The code averages groups of dimensions in heads wider than 128; here they are taken
    as they are. Among equal entropies the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; queries and keys are those of the layer before it.
        clamp: as in `Method`.
        source: "queries", as in the authors' scripts, or "keys".
        unit_trace: scale each token's eigenvalues so that they add to 1.

    Raises:
        OptionError: `source` is neither, or `unit_trace` is neither true nor false.
    """

    source: Literal["queries", "keys"] = "queries"
    unit_trace: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in ("queries", "keys"):
            raise OptionError(f"source={self.source!r} is not known; choose 'queries' or 'keys'")
        if not isinstance(self.unit_trace, bool):
            raise OptionError(f"unit_trace={self.unit_trace!r} must be True or False")

    @property
    def needs(self) -> frozenset[str]:
        """The queries or the keys."""
        return frozenset({self.source})

    @torch.no_grad()
    def score(self, view: View) -> Tensor:
        """The matrix entropy of each token, shape (n,), float32, so that differences of rounding noise are none."""
        entropy = matrix_entropy(view.signal(self.source), unit_trace=self.unit_trace)
        require((entropy == entropy).all(), self._no_entropy, [view])
        return entropy.float()

    def _no_entropy(self) -> InputError:
        return InputError(f"the {self.source} of an image contain NaN or infinity, so they have no entropy; check the model's dtype")


def matrix_entropy(heads: Tensor, *, unit_trace: bool = False) -> Tensor:
    """Entropy of each token's heads: -sum(v log v) / log(heads), v being the eigenvalues of their centred Gram matrix over their number.

    Args:
        heads: (n, heads, c), any floating dtype; the mean over the heads is taken away first.
        unit_trace: scale the eigenvalues of each token so that they add to 1.

    Returns:
        (n,), float64; NaN where a token contains NaN or infinity. With one head, all are 0.
    """
    count = heads.shape[1]
    if count == 1:
        return heads.double().flatten(1).sum(1) * 0
    # Autocast would turn the products of the accelerator's path into bfloat16 ones.
    with torch.autocast(heads.device.type, enabled=False):
        centred = heads.double()
        centred = centred - centred.mean(1, keepdim=True)
        gram = centred @ centred.mT / count
        finite = gram.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()
        values = _eigenvalues(gram.masked_fill(~finite[:, None, None], 0))
        if unit_trace:
            values = values / values.sum(-1, keepdim=True).clamp(min=SMALLEST)
        values = values.clamp(min=SMALLEST)
        entropy = -(values * values.log()).sum(-1) / math.log(count)
        return entropy.masked_fill(~finite, math.nan)


def _eigenvalues(gram: Tensor) -> Tensor:
    """Of float64 Gram matrices (n, r, r); an accelerator, whose own decomposition would wait, finds them by products alone."""
    if gram.device.type == "cpu":
        return torch.linalg.eigvalsh(gram)
    return product_axes(gram, ITERATIONS)[1].double().square()
