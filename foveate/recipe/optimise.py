"""Mixed-precision optimisation, the same on every device: bfloat16 weights compute, float32 master weights are updated."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, distributed, nn

from foveate.recipe.muon import Muon

_LAYERS = ("layers.", "blocks.", "merger.", "projector")  # in the names of layers and of the projector


def average(tensors: list[Tensor]) -> None:
    """Average tensors in place over the processes that train together; a single process leaves them unchanged."""
    if not distributed.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Optimiser:
    """Muon for the matrices of layers and projector, AdamW for the rest, on float32 master weights of a bfloat16 copy.

    Attributes:
        compute: the bfloat16 copy that runs forward and backward.

    Args:
        masters: the module whose trainable parameters are updated, in float32.
        matrix_rate: peak learning rate of the matrices.
        other_rate: peak learning rate of embeddings, norms and biases.
        dtype: of the computing copy; float32 makes it exact, for tests.
    """

    def __init__(self, masters: nn.Module, matrix_rate: float, other_rate: float, dtype: torch.dtype = torch.bfloat16) -> None:
        self.compute = copy.deepcopy(masters).to(dtype)
        named = [(name, weight) for name, weight in masters.named_parameters() if weight.requires_grad]
        self._masters: list[Tensor] = [weight for _, weight in named]
        self._copies: list[Tensor] = [weight for weight in self.compute.parameters() if weight.requires_grad]
        matrices = [weight for name, weight in named if weight.ndim == 2 and any(part in name for part in _LAYERS)]
        chosen = {id(weight) for weight in matrices}
        others = [weight for weight in self._masters if id(weight) not in chosen]
        self._optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=matrix_rate),
            torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self._rates = (matrix_rate, other_rate)

    def step(self, loss: Tensor, rate: float) -> None:
        """Backpropagate and take a step at a share `rate` of the peak learning rates; gradients are clipped to norm 1."""
        loss.backward()
        for master, computed in zip(self._masters, self._copies, strict=True):
            gradient = computed.grad if computed.grad is not None else torch.zeros_like(computed)
            master.grad = gradient.to(master.dtype)
            computed.grad = None
        average([master.grad for master in self._masters if master.grad is not None])
        nn.utils.clip_grad_norm_(self._masters, 1.0)
        for optimiser, peak in zip(self._optimisers, self._rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate
            optimiser.step()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master weights into the computing copy."""
        torch._foreach_copy_(self._copies, self._masters)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of both optimisers; the master weights belong to their module."""
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load a saved state, after the master weights."""
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)
        self.refresh()
