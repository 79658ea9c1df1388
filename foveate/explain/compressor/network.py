"""The network inside a compressor: separable convolutions over the token grid, from attention to one score per token."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from foveate.errors import OptionError
from foveate.files.records import RecordSchema
from foveate.view import Grid

__all__ = ["CompressorConfig", "ScoreNetwork", "CompressorInput"]

NETWORKS = ("sequence", "grid")
_WIDEST = 2**16
_Width = Annotated[int, Field(le=_WIDEST)]
_Reach = Annotated[int, Field(le=1023)]
_TINY = 2.0**-24
"""The smallest float16, added before the logarithm to keep it finite: labels hold attention in float16, where it may round to zero."""


@dataclass(frozen=True)
class CompressorConfig:
    """The shape of a compressor's network. JSON-serialisable.

    Args:
        heads: attention heads of the model, the rows of `head_attention`.
        network: "sequence" convolves along the sequence of tokens, as the paper does; "grid" convolves over rows and columns, and over
            frames if there are several.
        channels: output channels of each separable convolution.
        kernel: width of the convolutions, odd.
        frames: how many frames a convolution of the grid network spans, odd.
        mean: average the heads before the network, as the paper does, instead of giving each head a channel.
        logarithm: take the logarithm of attention before standardising it.
        hidden: width of the tokens' states if they are an additional input, otherwise 0.
        projected: channels that the states are projected to.

    Raises:
        OptionError: a value outside its range.
    """

    heads: _Width
    network: Literal["sequence", "grid"] = "grid"
    channels: Annotated[tuple[_Width, ...], Field(max_length=256)] = (32, 64, 128, 256, 512)
    kernel: _Reach = 3
    frames: _Reach = 3
    mean: bool = False
    logarithm: bool = True
    hidden: _Width = 0
    projected: _Width = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.network not in NETWORKS:
            raise OptionError(f"network={self.network!r} is not known; choose {' or '.join(map(repr, NETWORKS))}")
        for name in ("kernel", "frames"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise OptionError(f"{name}={getattr(self, name)} must be odd and positive, so that a convolution has a middle")
        if not self.channels or min(self.channels, default=0) < 1 or self.heads < 1 or self.hidden < 0 or self.projected < 1:
            raise OptionError(
                f"channels={self.channels}, heads={self.heads}, projected={self.projected} must be positive, hidden at least 0"
            )

    @property
    def inputs(self) -> int:
        """Input channels of the first convolution."""
        return (1 if self.mean else self.heads) + (self.projected if self.hidden else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CompressorConfig:
        """The inverse of `to_dict`.

        Raises:
            OptionError: an unknown name.
            RecordError: a value of the wrong type or outside its range.
        """
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise OptionError(f"{', '.join(unknown)}: this version of foveate knows no such setting of a compressor")
        return _SCHEMA.of(data, "config").value


_SCHEMA: RecordSchema[CompressorConfig] = RecordSchema("the shape of a compressor's network", CompressorConfig)


@dataclass(frozen=True, eq=False)
class CompressorInput:
    """What the network sees of one image or video with n tokens.

    Attributes:
        attention: (heads, n), attention of the question to each token: the signal `head_attention` at layer 0.
        parts: (t, h, w) of each part, in the order of the tokens.
        states: (n, d), the tokens' states at the language model's input, for networks that read them.
        index: (n,), the cell of each token, counted over all parts; `None` if no token is missing.
    """

    attention: Tensor
    parts: tuple[Grid, ...]
    states: Tensor | None = None
    index: Tensor | None = None

    def cut(self) -> Iterator[tuple[Grid, slice | Tensor, Tensor | None]]:
        """Per part: its grid, which of the tokens it has, and the cells of these tokens; `None` means all cells, in order."""
        first = 0
        for part in self.parts:
            size = math.prod(part)
            if self.index is None:
                yield part, slice(first, first + size), None
            else:
                own = ((self.index >= first) & (self.index < first + size)).nonzero().squeeze(1)
                yield part, own, self.index[own] - first
            first += size


class ScoreNetwork(nn.Module):
    """Separable convolutions, then one score per token.

    Images of a batch may have any size. Those of one shape are computed together, and nothing is padded, so no score depends on the rest
    of the batch.
    """

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.inputs, *config.channels)
        tall = config.kernel if config.network == "grid" else 1
        frames = config.frames if config.network == "grid" else 1
        self.states = nn.Sequential(nn.LayerNorm(config.hidden), nn.Linear(config.hidden, config.projected)) if config.hidden else None
        self.blocks = nn.ModuleList(_Separable(a, b, (frames, tall, config.kernel)) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, images: Sequence[CompressorInput]) -> list[Tensor]:
        """Scores (n,) of each image's tokens, float32, before any softmax."""
        if self.config.network == "sequence":
            images = [CompressorInput(image.attention, ((1, 1, _cells(image)),), image.states, image.index) for image in images]
        features = [self._features(image) for image in images]
        scores = [own.new_empty(len(own)) for own in features]
        groups: dict[Grid, list[tuple[int, slice | Tensor, Tensor | None]]] = {}
        for number, image in enumerate(images):
            for part, own, cells in image.cut():
                groups.setdefault(part, []).append((number, own, cells))
        found: list[list[Tensor]] = [[] for _ in images]
        places: list[list[slice | Tensor]] = [[] for _ in images]
        for part, members in groups.items():
            pieces = [(features[number][own], cells) for number, own, cells in members]
            for (number, own, _), values in zip(members, self._group(part, pieces), strict=True):
                found[number].append(values)
                places[number].append(own)
        return [_join(*each) for each in zip(scores, places, found, strict=True)]

    def _features(self, image: CompressorInput) -> Tensor:
        """(n, c), the input of the first convolution."""
        attention = image.attention.float()
        if self.config.mean:
            attention = attention.mean(0, keepdim=True)
        if self.config.logarithm:
            attention = (attention + _TINY).log()
        # A single token has no spread.
        spread = attention.std(1, keepdim=True, correction=0).clamp(min=torch.finfo(torch.float32).tiny)
        channels = [((attention - attention.mean(1, keepdim=True)) / spread).T]
        if self.states is not None:
            assert image.states is not None
            channels.append(self.states(image.states.float()))
        return torch.cat(channels, dim=1)

    def _group(self, part: Grid, pieces: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """Scores of pieces (tokens, c) that lie on grids of one shape."""
        size, mask = math.prod(part), None
        if all(cells is None for _, cells in pieces):
            canvas = torch.stack([features for features, _ in pieces])
        else:
            canvas = pieces[0][0].new_zeros(len(pieces), size, self.config.inputs)
            mask = pieces[0][0].new_zeros(len(pieces), size, 1)
            for number, (features, cells) in enumerate(pieces):
                where = slice(None) if cells is None else cells
                canvas[number, where], mask[number, where] = features, 1.0
        scores = self._run(_frames(canvas, part), None if mask is None else _frames(mask, part), part[0]).view(len(pieces), size)
        return [own if cells is None else own[cells] for own, (_, cells) in zip(scores, pieces, strict=True)]

    def _run(self, states: Tensor, mask: Tensor | None, frames: int) -> Tensor:
        for block in self.blocks:
            states = block(states, frames)
            if mask is not None:
                states = states * mask
        scores: Tensor = self.head(states)
        return scores


class _Separable(nn.Module):
    """A depthwise convolution over frames, rows and columns, then a pointwise one across channels, normalised per token."""

    def __init__(self, inputs: int, outputs: int, kernel: Grid) -> None:
        super().__init__()
        self.depthwise = nn.Parameter(torch.empty(inputs, *kernel))
        self.pointwise = nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.LayerNorm(outputs)
        # Other frames start with zero weight, so that a network trained on images treats each frame of a video by itself.
        bound = (kernel[1] * kernel[2]) ** -0.5
        nn.init.zeros_(self.depthwise)
        nn.init.uniform_(self.depthwise[:, kernel[0] // 2], -bound, bound)

    def forward(self, states: Tensor, frames: int) -> Tensor:
        """States (b * frames, c, h, w)."""
        _, reach, tall, wide = self.depthwise.shape
        # A kernel over frames is a sum of one kernel per frame; this way an image costs one, and the layout stays that of images.
        whole: Tensor | None = None
        for step in range(reach):
            ahead = step - reach // 2
            if abs(ahead) >= frames:
                continue
            weight = self.depthwise[:, step, None]
            part = functional.conv2d(_shift(states, ahead, frames), weight, padding=(tall // 2, wide // 2), groups=len(weight))
            whole = part if whole is None else whole + part
        assert whole is not None
        # A matrix product, which a CPU computes faster than a convolution of width 1.
        mixed = functional.linear(whole.permute(0, 2, 3, 1), self.pointwise.weight.flatten(1), self.pointwise.bias)
        # Over channels only, because statistics over tokens would depend on how many there are.
        return functional.gelu(self.norm(mixed)).permute(0, 3, 1, 2)


def _shift(states: Tensor, ahead: int, frames: int) -> Tensor:
    """Each frame of (b * frames, c, h, w) replaced by the frame that many steps ahead; zeros beyond the ends."""
    if ahead == 0:
        return states
    by_video = states.unflatten(0, (-1, frames))
    gap = torch.zeros_like(by_video[:, : abs(ahead)])
    moved = torch.cat([by_video[:, ahead:], gap], 1) if ahead > 0 else torch.cat([gap, by_video[:, :ahead]], 1)
    return moved.flatten(0, 1)


def _frames(canvas: Tensor, part: Grid) -> Tensor:
    """Cells (b, t * h * w, c) as frames (b * t, c, h, w), channels last in memory."""
    return canvas.view(-1, part[1], part[2], canvas.shape[2]).permute(0, 3, 1, 2)


def _cells(image: CompressorInput) -> int:
    return sum(math.prod(part) for part in image.parts)


def _join(whole: Tensor, places: Sequence[slice | Tensor], values: Sequence[Tensor]) -> Tensor:
    for place, own in zip(places, values, strict=True):
        whole[place] = own
    return whole
