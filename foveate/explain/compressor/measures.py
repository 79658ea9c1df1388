"""The target and loss that a compressor is trained with, and how well its predictions rank."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.method import ranking

__all__ = ["Quality", "divergence", "overlap", "quality", "rank_correlation", "target"]


@dataclass(frozen=True)
class Quality:
    """How close a prediction of relevance is, averaged over images.

    Attributes:
        loss: Kullback-Leibler divergence of the prediction from the target, in nats.
        overlap_50: share of the most relevant half of the tokens that is in the predicted most relevant half.
        overlap_25: the same for a quarter.
        rank_correlation: Spearman's, over all tokens.
    """

    loss: float
    overlap_50: float
    overlap_25: float
    rank_correlation: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self)

    def to_tensor(self) -> Tensor:
        """(4,) float64, the fields in order."""
        return torch.tensor([getattr(self, field.name) for field in fields(self)], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, values: Tensor) -> Quality:
        """The inverse of `to_tensor`."""
        return cls(*values.tolist())


def target(relevance: Tensor) -> Tensor:
    """The target of the prediction: the upper half of the relevance (n,), divided by its sum; zero for the lower half.

    Raises:
        InputError: the relevance holds NaN, or nothing in it is above zero.
    """
    upper = ranking(relevance)[: (len(relevance) + 1) // 2]
    kept = torch.zeros_like(relevance).scatter(0, upper, relevance[upper])
    total = kept.sum()
    if not bool(total > 0) or not bool(total.isfinite()):
        raise InputError(f"relevance that sums to {float(total)} over its upper half is not a valid target; make these labels again")
    return kept / total


def divergence(wanted: Tensor, predicted: Tensor) -> Tensor:
    """Kullback-Leibler divergence, in nats, of log-probabilities `predicted` (n,) from probabilities `wanted` (n,)."""
    return torch.special.xlogy(wanted, wanted).sum() - (wanted * predicted).sum()


def overlap(predicted: Tensor, relevance: Tensor, share: float) -> float:
    """Of the `share` of tokens with the highest relevance (n,), the part that is also among as many with the highest prediction (n,)."""
    count = max(1, int(share * len(relevance) + 0.5))
    both = torch.isin(ranking(predicted)[:count], ranking(relevance)[:count])
    return float(both.double().mean())


def rank_correlation(predicted: Tensor, relevance: Tensor) -> float:
    """Spearman's rank correlation of two (n,); equal values share the mean of their ranks. 0 if one is constant."""
    ranks = torch.stack([_ranks(values) for values in (predicted, relevance)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    spread = ranks.square().sum(1).prod().sqrt()
    return float(ranks.prod(0).sum() / spread) if bool(spread > 0) else 0.0


def quality(predicted: Tensor, relevance: Tensor) -> Quality:
    """All measures of one image's prediction, log-probabilities (n,), against its true relevance (n,)."""
    loss = float(divergence(target(relevance), predicted))
    return Quality(loss, overlap(predicted, relevance, 0.5), overlap(predicted, relevance, 0.25), rank_correlation(predicted, relevance))


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.double().cumsum(0)
    return (last - (counts.double() - 1) / 2)[place]
