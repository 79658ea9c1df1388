"""First phase: teach the vision tower to name what each patch shows, on small windows of scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModel

from foveate.demo.architecture import fastest_attention
from foveate.demo.backgrounds import Split
from foveate.demo.drawing import paint, place
from foveate.demo.labels import CLASSES, GRID, IGNORED, PATCH, patch_labels
from foveate.demo.language import MEAN, SPREAD
from foveate.demo.optimise import Optimiser

# How often windows of 8, 12 and 24 patches a side are drawn, first and towards the end; and how many in a batch.
_SHARES = ((0.8, 0.14, 0.06), (0.3, 0.2, 0.5))
_SIDES = (8, 12, 24)


@dataclass
class Windows:
    """A batch of windows: patches (b, n, 588), positions (b, n) in the whole grid, labels (b, n, classes), centres (b, n, 2)."""

    patches: Tensor
    positions: Tensor
    labels: Tensor
    centres: Tensor

    def to(self, device: torch.device | str) -> Windows:
        """The same batch on another device."""
        return Windows(*(getattr(self, name).to(device) for name in ("patches", "positions", "labels", "centres")))


def to_patches(pixels: NDArray[np.uint8]) -> Tensor:
    """Cut images (b, side, side, 3) into patches (b, n, 588), channels first as the patch embedding wants them."""
    batch, side = pixels.shape[:2]
    grid = side // PATCH
    cut = torch.from_numpy(pixels).view(batch, grid, PATCH, grid, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(batch, grid * grid, 3 * PATCH * PATCH)


def normalise(patches: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring 8-bit patches to the range that the image processor gives."""
    return (patches.to(dtype) / 255 - MEAN) / SPREAD


def window_positions(offsets: NDArray[np.int64], grid: int) -> Tensor:
    """Indices (b, grid * grid) in the whole scene's grid of windows that start at `offsets` (b, 2), (column, row)."""
    local = np.arange(grid)
    rows = offsets[:, 1, None, None] + local[None, :, None]
    columns = offsets[:, 0, None, None] + local[None, None, :]
    return torch.from_numpy((rows * GRID + columns).reshape(len(offsets), -1))


def draw_windows(seed: tuple[int, ...], split: Split, batch: int, grid: int) -> Windows:
    """Draw a batch of windows of `grid` by `grid` patches, each somewhere in the grid of a whole scene."""
    rng = np.random.default_rng(seed)
    side = grid * PATCH
    scale = (grid / 8) ** 2
    pixels = np.empty((batch, side, side, 3), dtype=np.uint8)
    offsets = rng.integers(0, GRID - grid + 1, (batch, 2))
    labels, centres = [], []
    for index in range(batch):
        signs = min(4, round(rng.uniform(0.6, 1.6) * min(scale, 3)))
        objects, digits = round(rng.uniform(0.6, 2.4) * scale), round(rng.uniform(0, 0.8) * scale)
        items = place(rng, split, side, objects, signs, digits)
        pixels[index] = paint(rng, split, side, items)
        classes, centre = patch_labels(items, grid, (int(offsets[index, 0]), int(offsets[index, 1])))
        labels.append(classes)
        centres.append(centre)
    return Windows(
        to_patches(pixels),
        window_positions(offsets, grid),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(centres)),
    )


def tower_states(tower: CLIPVisionModel, patches: Tensor, positions: Tensor) -> Tensor:
    """States (b, n, hidden) after the tower's last layer for any set of patches; equals the stock forward on all 576.

    Args:
        patches: (b, n, 588) normalised pixels.
        positions: (b, n) indices in the 24 by 24 grid.
    """
    embeddings = tower.embeddings
    weight = embeddings.patch_embedding.weight
    states = functional.linear(patches, weight.view(weight.shape[0], -1))
    states = states + functional.embedding(positions + 1, embeddings.position_embedding.weight)
    first = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    states = torch.cat([first.expand(len(states), 1, -1), states], dim=1)
    states = tower.pre_layrnorm(states)
    for layer in tower.encoder.layers:
        states = layer(states, None)
    return states[:, 1:]


class Heads(nn.Module):
    """Linear readers of a patch's label classes and of the centre of the thing it shows; thrown away after training."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(CLASSES.values()) + 2)
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, states: Tensor) -> Tensor:
        """Read states (..., hidden) into all classes and the centre (..., classes + 2)."""
        return self.out(self.norm(states))


def dense_loss(read: Tensor, windows: Windows) -> tuple[Tensor, dict[str, float]]:
    """Sum of the labels' cross-entropies and the centre's error, with the share of right labels and the error in pixels."""
    read = read.float().flatten(0, 1)
    labels = windows.labels.flatten(0, 1)
    parts = read.split([*CLASSES.values(), 2], dim=-1)
    loss = read.new_zeros(())
    right: dict[str, float] = {}
    for column, (name, logits) in enumerate(zip(CLASSES, parts[:-1], strict=True)):
        applies = (labels[:, column] != IGNORED).nonzero()[:, 0]
        if not len(applies):
            continue
        wanted, given = labels[applies, column], logits[applies]
        loss = loss + functional.cross_entropy(given, wanted)
        if name == "kind":
            thing = wanted > 0
            right["shape"] = (given.argmax(-1) == wanted)[thing].float().mean().item()
            right["background"] = (given.argmax(-1) == wanted)[~thing].float().mean().item()
        else:
            right[name] = (given.argmax(-1) == wanted).float().mean().item()
    known = (~windows.centres.flatten(0, 1)[:, 0].isnan()).nonzero()[:, 0]
    error = (parts[-1][known] - windows.centres.flatten(0, 1)[known]).abs()
    right["pixels"] = error.mean().item() * GRID * PATCH
    return loss + 4 * error.mean(), right


class Taught(nn.Module):
    """A tower and the heads that read it."""

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.tower = tower
        self.heads = Heads(tower.config.hidden_size)

    def forward(self, windows: Windows) -> Tensor:
        """Classes and centres read at every patch (b, n, classes + 2)."""
        patches = normalise(windows.patches, self.tower.dtype)
        return self.heads(tower_states(self.tower, patches, windows.positions))


class TowerPhase:
    """The first phase, as the loop wants it.

    Args:
        tower: learned in place, in float32.
        seed: of the scenes.
        batch: windows of 8 by 8 patches a step; larger windows come in as many patches.
        dtype: in which the loss is computed.
        pace: factor on the learning rates; below 1 where the tower has learned before.
    """

    name = "tower"

    def __init__(
        self,
        tower: CLIPVisionModel,
        *,
        seed: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        pace: float = 1.0,
    ) -> None:
        torch.manual_seed(seed)
        self.masters = Taught(tower).to(device)
        self.masters.tower.config._attn_implementation = fastest_attention(device, dtype)
        self.masters.tower.post_layernorm.requires_grad_(False)  # not on the way to the patches' states
        self.optimiser = Optimiser(self.masters, matrix_rate=5e-3 * pace, other_rate=2e-3 * pace, dtype=dtype)
        self._seed, self._batch, self._device = seed, batch, device

    def order(self, step: int, rank: int, progress: float) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Windows of one size a step."""
        shares = _SHARES[progress > 0.6]
        side = int(np.random.default_rng((self._seed, 1, step)).choice(_SIDES, p=shares))
        return draw_windows, ((self._seed, 2, step, rank), "train", max(1, self._batch * 64 // side**2), side)

    def loss(self, batch: Windows, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The dense labels' loss."""
        windows = batch.to(self._device)
        loss, figures = dense_loss(self.optimiser.compute(windows), windows)
        if windows.positions.shape[1] == GRID * GRID:
            return loss, {f"scene_{name}": value for name, value in figures.items()}
        return loss, figures
