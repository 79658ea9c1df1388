"""What the recipe must know about the shape of the model that it trains; everything else is the same for all shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from foveate.demo.model.language import IMAGE_TOKEN, build_tokenizer, prompt, vocabulary
from foveate.demo.scenes.labels import GRID, PatchGrid
from foveate.files.records import RecordSchema


class EmbeddedShape(ABC):
    """A shape of the embedded model: how it is built, how it sees a picture, and where its visual tokens are.

    Attributes:
        name: its name on the command line and in `foveate.demo.load`.
        merged: patches per side of a visual token.
        windows: whether a picture smaller than a scene is a window of one and keeps its position there. Otherwise it is a separate
            picture, with any number of rows and columns.
        own_words: tokens that its vocabulary has in addition to those of all shapes: the tokens before the placeholders of a picture,
            those after them, ...
        around: how many of them come before a picture, and how many after.
        curriculum: the second phase's sides of pictures in patches, and how often each is drawn, until a share of the phase is done.
    """

    name: ClassVar[str]
    merged: ClassVar[int] = 1
    windows: ClassVar[bool] = True
    own_words: ClassVar[tuple[str, ...]] = ()
    around: ClassVar[tuple[int, int]] = (0, 0)
    curriculum: ClassVar[tuple[tuple[float, dict[int, float]], ...]] = (
        (0.1, {8: 0.2, 10: 0.5, 14: 0.3}),
        (0.4, {10: 0.35, 14: 0.5, 24: 0.15}),
        (0.7, {10: 0.1, 14: 0.4, 24: 0.5}),
        (1.0, {14: 0.1, 24: 0.9}),
    )

    @abstractmethod
    def build(self, *, hidden: int, tower_layers: int, layers: int, seed: int) -> Any:
        """A freshly initialised model, in float32 and reproducible from `seed`."""

    @abstractmethod
    def processor(self, folder: Path | None = None) -> Any:
        """The processor of a folder of weights, or one for a fresh model."""

    @abstractmethod
    def tower(self, model: Any) -> Any:
        """The part that the first phase trains to see."""

    @abstractmethod
    def projector(self, model: Any) -> nn.Module:
        """The part that turns states of patches into visual tokens; the second phase trains it together with the decoder."""

    @abstractmethod
    def states(self, tower: Any, patches: Tensor, positions: Tensor) -> Tensor:
        """States (b, n, hidden) of the patches, as input for the projector.

        Args:
            tower: what `tower` returns.
            patches: (b, n, 588) normalised pixels, row by row.
            positions: (b, n) indices of the patches in the 24 by 24 grid of a whole scene.
        """

    @abstractmethod
    def features(self, tower: Any, patches: Tensor, positions: Tensor) -> Tensor:
        """The features that labels are read from, one row per visual token (b, n / merged**2, hidden); see `states`."""

    @abstractmethod
    def project(self, projector: nn.Module, states: Tensor) -> Tensor:
        """Visual tokens (b, n / merged**2, hidden) from the states of patches."""

    @abstractmethod
    def places(self, positions: Tensor) -> tuple[Tensor, int]:
        """Rotary positions of visual tokens relative to the first one, and that of what follows the picture.

        Args:
            positions: (b, n) indices of the patches in the grid of a whole scene.

        Returns:
            (..., b, n / merged**2), with a leading dimension if positions have several coordinates; and a number.
        """

    @abstractmethod
    def rotation(self, decoder: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (b, s, head size) of rotary positions (..., b, s)."""

    @abstractmethod
    def earlier(self, folder: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state that a model of this shape starts from.

        Args:
            folder: weights of an earlier embedded model.
            own: the fresh state, for what the earlier one did not have.
        """

    @abstractmethod
    def spare(self, tower: Any) -> None:
        """Exclude from training what does not contribute to the features of a tower."""

    def grid(self, rng: np.random.Generator, sides: Sequence[int], shares: Sequence[float]) -> PatchGrid:
        """Rows and columns of a step's pictures, drawn from sides in patches; windows are always square, pictures half of the time."""
        rows = int(rng.choice(sides, p=shares))
        return rows, rows if self.windows or rng.random() < 0.5 else int(rng.choice(sides, p=shares))

    @abstractmethod
    def calibrate(self, projector: nn.Module, seen: Tensor) -> None:
        """Fit a fresh projector to the states (b, n, hidden) of a tower."""

    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        return vocabulary(self.own_words)

    def before_picture(self) -> list[int]:
        """The ids before a picture in every prompt."""
        return [*_prefix(), *self._own(0, self.around[0])]

    def after_picture(self) -> list[int]:
        """The ids between a picture and the question in every prompt."""
        return self._own(self.around[0], sum(self.around))

    def _own(self, start: int, stop: int) -> list[int]:
        return [self.vocabulary()[word] for word in self.own_words[start:stop]]

    def by_token(self, patches: Tensor, columns: int) -> Tensor:
        """Reduce booleans per patch (..., n) to visual tokens: true if any of a token's patches is."""
        if self.merged == 1:
            return patches
        tiles = patches.unflatten(-1, (-1, self.merged, columns // self.merged, self.merged))
        return tiles.transpose(-2, -3).flatten(-2).any(-1).flatten(-2)

    def by_patch(self, read: Tensor, columns: int) -> Tensor:
        """Rearrange readings of visual tokens (b, n / merged**2, merged**2 * k) to patches row by row (b, n, k)."""
        if self.merged == 1:
            return read
        tiles = read.unflatten(-1, (self.merged, self.merged, -1)).unflatten(1, (-1, columns // self.merged))
        return tiles.transpose(2, 3).flatten(1, 4)


def kind_of(folder: Path) -> str:
    """The model type, in transformers' terms, of the weights in a folder."""
    return _MODEL_TYPE.read(folder / "config.json").value.model_type


@dataclass(frozen=True)
class _ModelType:
    model_type: str


_MODEL_TYPE: RecordSchema[_ModelType] = RecordSchema("the configuration of a model", _ModelType)


def _prefix() -> list[int]:
    ids: list[int] = build_tokenizer()(prompt("?")).input_ids
    return ids[: ids.index(vocabulary()[IMAGE_TOKEN])]


def columns_of(positions: Tensor) -> int:
    """The number of columns of pictures whose patches have `positions` (b, n) in the grid of a whole scene, row by row."""
    first, last = positions[0, [0, -1]].tolist()
    return int(last % GRID - first % GRID) + 1
