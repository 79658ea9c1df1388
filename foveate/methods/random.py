"""Random: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from foveate.devices import upload
from foveate.errors import OptionError
from foveate.method import Method
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["Random"]


@register
@dataclass(frozen=True)
class Random(Method):
    """Keeps a random set of tokens, the same one whenever the seed, the prompt and the image are the same.

    The choice depends only on `seed`, the view's fingerprint and its number of tokens, not on the batch, padding, beams or
    device, and does not touch PyTorch's global random state. With one seed, a smaller budget keeps a subset of what a larger
    one keeps. The baseline of most papers. The default layer is that of `TokenCarve` and `FastV`, so that a comparison
    changes nothing but the choice; `layer=0` drops tokens at the language model's input.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before.
        clamp: as in `Method`.
        seed: any integer.

    Raises:
        OptionError: `seed` is not an integer.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise OptionError(f"seed={self.seed!r} must be an integer, such as seed=0")

    def score(self, view: View) -> Tensor:
        """One random number in [0, 1) per token, shape (n,), float64."""
        # Python's hash of text changes from run to run, and a generator has similar streams for neighbouring seeds.
        digest = blake2b(f"{self.seed} {view.fingerprint} {len(view)}".encode(), digest_size=8).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little", signed=True))
        score = torch.rand(len(view), generator=generator, dtype=torch.float64)
        return upload(score, view.states.device)
