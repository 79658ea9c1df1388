"""The scores of one picture or several, by the method that fits their size and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.methods.information.exact import exact_scores
from foveate.methods.information.fast import fast_scores

__all__ = ["information_contribution", "information_contributions", "information_method", "not_finite"]

METHODS = ("auto", "exact", "fast")
EXACT_SIZE = 2304**2
"""Largest n * min(n, d) for which "auto" takes exact scores on a CPU."""
EXACT_BYTES = 256 * 2**20
"""Largest Gram matrix of exact scores; decomposing it takes some four times as much memory."""


def information_contribution(states: Tensor, method: Literal["auto", "exact", "fast"] = "exact") -> Tensor:
    """Information contribution score of each token: sum over k of |U[i, k]| S[k], with states = U S V^T.

    From TokenCarve, https://arxiv.org/abs/2503.10501, section 3. Equal to the L1 norm of each row of `states @ V`.

    Args:
        states: (n, d) or (b, n, d), hidden states of the n tokens of one or b images, any floating dtype.
        method: "exact" takes an eigendecomposition of the smaller Gram matrix in float64. "fast" resolves the 128
            strongest directions by subspace iteration and estimates the rest from what remains of each row; on an
            accelerator it needs matrix products and small Cholesky factors, and never waits for the device. "auto" is what
            `information_method` says.

    Returns:
        (n,) or (b, n), float32. Tokens that are equal up to rounding noise get equal scores: exact scores are rounded
        from float64, fast ones to 16 significant bits.

    Raises:
        ValueError: `method` is unknown, or `states` is empty, not floating, or has another number of dimensions.
        InputError: `states` contains NaN or infinity, or exact scores would need too much memory (also a ValueError).
    """
    if states.ndim not in (2, 3) or not states.is_floating_point() or states.numel() == 0:
        raise ValueError(
            f"states must be a floating tensor of shape (n, d) or (b, n, d), none of them 0, not {tuple(states.shape)} {states.dtype}"
        )
    scores, finite = information_contributions(states.unbind() if states.ndim == 3 else [states], method)
    if not bool(finite.all()):
        raise not_finite()
    return torch.stack(scores) if states.ndim == 3 else scores[0]


def information_method(tokens: int, width: int, device: torch.device | str) -> Literal["exact", "fast"]:
    """What "auto" takes for states (tokens, width): "fast" on an accelerator; on a CPU "exact" if tokens * min(tokens, width) <= 2304^2.

    So "auto" never makes a matrix of tokens x tokens numbers for more than 2304 tokens.
    """
    small = tokens * min(tokens, width) <= EXACT_SIZE
    return "exact" if torch.device(device).type == "cpu" and small else "fast"


def information_contributions(states: Sequence[Tensor], method: Literal["auto", "exact", "fast"] = "auto") -> tuple[list[Tensor], Tensor]:
    """Scores of several images at once, each as `information_contribution` gives them, and whether they can be ranked.

    Images of unequal size share launches on an accelerator, where fast scores never wait for the device.

    Args:
        states: one (n, d) for each image, on one device; n may differ.
        method: as in `information_contribution`.

    Returns:
        Scores (n,) of each image; and a bool for each (b,), on its device: false where the states contain NaN or infinity,
        so that the scores mean nothing.

    Raises:
        ValueError: `method` is unknown.
        InputError: exact scores would need too much memory (also a ValueError).
    """
    if method not in METHODS:
        raise ValueError(f"information method {method!r} is not known; choose 'auto', 'exact' or 'fast'")
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, image in enumerate(states):
        kind = information_method(len(image), image.shape[1], image.device) if method == "auto" else method
        if kind == "exact":
            _check_memory(len(image), image.shape[1])
        groups.setdefault((kind, *_alike(image, kind, i)), []).append(i)
    scores, finite = list(states), list(states)
    # Autocast would turn the float32 products into bfloat16 ones.
    with torch.no_grad(), torch.autocast(states[0].device.type, enabled=False):
        for key, members in groups.items():
            found, flags = (exact_scores if key[0] == "exact" else fast_scores)([states[i] for i in members])
            for i, own, flag in zip(members, found, flags.unbind(), strict=True):
                scores[i], finite[i] = own, flag
        return scores, torch.stack(finite)


def not_finite() -> InputError:
    """The error for states that contain NaN or infinity."""
    return InputError(
        "the hidden states of an image contain NaN or infinity, so their information cannot be ranked; "
        "check the model's dtype (float16 overflows at values that bfloat16 can represent)"
    )


def _alike(image: Tensor, kind: str, number: int) -> tuple[object, ...]:
    """What images must have in common to be scored together."""
    tokens, width = image.shape
    if kind == "exact":
        return tokens, width, image.dtype
    if image.device.type == "cpu":
        # A CPU gains nothing from a batch and loses its caches.
        return (number,)
    # Shorter images are filled up with rows of zeros, to less than twice their length.
    return tokens.bit_length(), width, image.dtype


def _check_memory(tokens: int, width: int) -> None:
    side = min(tokens, width)
    size = 8 * side**2
    if size > EXACT_BYTES:
        raise InputError(
            f"exact information of {tokens} x {width} states needs a {side} x {side} float64 matrix ({size / 2**20:.0f} MiB) and some "
            f"four times that to decompose it; the limit is {EXACT_BYTES // 2**20} MiB: choose 'fast' or 'auto'"
        )
