"""The first phase: train the vision tower to name what each patch shows, on small windows of scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foveate.demo.model.language import MEAN, SPREAD
from foveate.demo.model.shape import EmbeddedShape, columns_of
from foveate.demo.scenes.backgrounds import Split
from foveate.demo.scenes.drawing import paint, place
from foveate.demo.scenes.labels import CLASSES, GRID, IGNORED, PATCH, PatchGrid, patch_labels, square
from foveate.recipe.attention import fastest_attention
from foveate.recipe.optimise import Optimiser

# How often windows of 8, 12 and 24 patches per side are drawn, at first and towards the end.
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
    """Cut images (b, height, width, 3) into patches (b, n, 588), row by row, channels first as the patch embedding expects."""
    batch, height, width = pixels.shape[:3]
    cut = torch.from_numpy(pixels).view(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(batch, -1, 3 * PATCH * PATCH)


def normalise(patches: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert 8-bit patches to the range of the image processor."""
    return (patches.to(dtype) / 255 - MEAN) / SPREAD


def window_positions(offsets: NDArray[np.int64], grid: int | PatchGrid) -> Tensor:
    """Indices (b, n) in the whole scene's grid of windows of n patches that start at `offsets` (b, 2), (column, row)."""
    high, wide = square(grid)
    rows = offsets[:, 1, None, None] + np.arange(high)[None, :, None]
    columns = offsets[:, 0, None, None] + np.arange(wide)[None, None, :]
    return torch.from_numpy((rows * GRID + columns).reshape(len(offsets), -1))


def draw_offsets(rng: np.random.Generator, batch: int, grid: int | PatchGrid, *, anywhere: bool) -> NDArray[np.int64]:
    """Where pictures begin in the grid of a whole scene (b, 2), (column, row): anywhere, or all at its first corner."""
    return rng.integers(0, GRID - max(square(grid)) + 1, (batch, 2)) if anywhere else np.zeros((batch, 2), dtype=np.int64)


def draw_windows(seed: tuple[int, ...], split: Split, batch: int, grid: int | PatchGrid, *, anywhere: bool = True) -> Windows:
    """Draw a batch of pictures with the rows and columns of patches in `grid`.

    Args:
        seed: determines everything.
        split: of photographs, digits and words.
        batch: how many pictures.
        grid: rows and columns; a single number means a square.
        anywhere: make each a window somewhere in the grid of a whole scene. Otherwise each is a separate picture without a position, and
            the centres are measured from the patches that show the things.
    """
    rng = np.random.default_rng(seed)
    rows, columns = square(grid)
    size = (columns * PATCH, rows * PATCH)
    scale = rows * columns / 64
    pixels = np.empty((batch, size[1], size[0], 3), dtype=np.uint8)
    offsets = draw_offsets(rng, batch, grid, anywhere=anywhere)
    labels, centres = [], []
    for index in range(batch):
        signs = min(4, round(rng.uniform(0.6, 1.6) * min(scale, 3)))
        objects, digits = round(rng.uniform(0.6, 2.4) * scale), round(rng.uniform(0, 0.8) * scale)
        items = place(rng, split, size, objects, signs, digits)
        pixels[index] = paint(rng, split, size, items)
        classes, centre = patch_labels(items, grid, (int(offsets[index, 0]), int(offsets[index, 1])))
        labels.append(classes)
        centres.append(centre)
    positions = window_positions(offsets, grid)
    away = torch.from_numpy(np.stack(centres))
    if not anywhere:
        away = away - torch.stack([positions % GRID, positions // GRID], dim=-1) / GRID - 0.5 / GRID
    return Windows(to_patches(pixels), positions, torch.from_numpy(np.stack(labels)), away)


class LabelHeads(nn.Module):
    """Linear heads that read the label classes of patches, and the centre of the thing that they show; discarded after training.

    Args:
        hidden: width of the states.
        patches: how many patches are read from one state.
    """

    def __init__(self, hidden: int, patches: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, patches * (sum(CLASSES.values()) + 2))
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (..., hidden) to all classes and the centre (..., patches * (classes + 2))."""
        return self.out(self.norm(states))


def dense_loss(read: Tensor, windows: Windows) -> tuple[Tensor, dict[str, float]]:
    """The sum of the labels' cross-entropies and the centre's error, with the share of right labels and the error in pixels."""
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


class TowerWithHeads(nn.Module):
    """A tower and the heads that read it."""

    def __init__(self, shape: EmbeddedShape, tower: Any) -> None:
        super().__init__()
        self.shape = shape
        self.tower = tower
        self.heads = LabelHeads(tower.config.hidden_size, shape.merged**2)

    def forward(self, windows: Windows) -> Tensor:
        """Classes and centres for every patch (b, n, classes + 2)."""
        patches = normalise(windows.patches, self.tower.dtype)
        read = self.heads(self.shape.features(self.tower, patches, windows.positions))
        return self.shape.by_patch(read, columns_of(windows.positions))


class TowerPhase:
    """The first phase, in the interface of the loop.

    Args:
        shape: the shape of the model.
        tower: trained in place, in float32.
        seed: of the scenes.
        batch: windows of 8 by 8 patches per step; steps with larger windows have as many patches.
        dtype: of the loss computation.
        pace: factor on the learning rates; below 1 if the tower was trained before.
    """

    name = "tower"

    def __init__(
        self,
        shape: EmbeddedShape,
        tower: Any,
        *,
        seed: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        pace: float = 1.0,
    ) -> None:
        torch.manual_seed(seed)
        self.masters = TowerWithHeads(shape, tower).to(device)
        self.masters.tower.config._attn_implementation = fastest_attention(device, dtype)
        shape.spare(tower)
        self.optimiser = Optimiser(self.masters, matrix_rate=5e-3 * pace, other_rate=2e-3 * pace, dtype=dtype)
        self._shape, self._seed, self._batch, self._device = shape, seed, batch, device

    def order(self, step: int, rank: int, progress: float) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Windows of one size per step."""
        shares = _SHARES[progress > 0.6]
        rows, columns = self._shape.grid(np.random.default_rng((self._seed, 1, step)), _SIDES, shares)
        batch = max(1, self._batch * 64 // (rows * columns))
        return partial(draw_windows, anywhere=self._shape.windows), ((self._seed, 2, step, rank), "train", batch, (rows, columns))

    def loss(self, batch: Windows, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The dense labels' loss."""
        windows = batch.to(self._device)
        loss, figures = dense_loss(self.optimiser.compute(windows), windows)
        if windows.positions.shape[1] == GRID * GRID:
            return loss, {f"scene_{name}": value for name, value in figures.items()}
        return loss, figures
