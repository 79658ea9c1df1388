"""Rotary positions in time, row and column for models that vLLM serves with fewer visual tokens.

vLLM fixes a prompt's positions when the request arrives, before anything is known of what stays of an image. Here text has its final
positions from the start, as if all of each image were there. Every visual token has a provisional one, that of its image's start, and its
row of features carries how far from there it really is. The runner calls `embed_input_ids` before each forward pass; that takes these
offsets off the rows, and the forward pass adds them. Nothing is remembered between two passes, so a prefill in chunks, a hit of the prefix
cache and a request that starts over are no special cases.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.devices import upload
from foveate.errors import ConsistencyError, UnsupportedError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.plugins.vllm.architecture import Architecture
from foveate.plugins.vllm.model import ServedModel
from foveate.plugins.vllm.requests import ItemRequest

__all__ = [
    "AXES",
    "CarriedOffsets",
    "InOrder",
    "Positioned",
    "PositionedModel",
    "ItemSpan",
    "grid_offsets",
    "kind_of",
    "prompt_positions",
    "split_offsets",
    "with_offsets",
]

AXES = 3
"""Time, row, column."""
DIGITS, BASE = 3, 256
"""Offsets are written with this many digits; all integers below the base are exact in bfloat16."""


def grid_offsets(grid: Sequence[int], time_step: float = 1.0) -> Tensor:
    """(3, t * h * w) long: how far each token of a grid is from where the grid starts, row-major.

    Args:
        grid: (t, h, w) in tokens.
        time_step: positions from one frame to the next; fractions are cut off, frame by frame.
    """
    frames, rows, columns = grid
    times = (torch.arange(frames, dtype=torch.float64) * time_step).long()
    return torch.stack(torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)


def with_offsets(rows: Tensor, offsets: Tensor) -> Tensor:
    """Rows (k, d) of features, followed by their offsets (3, k): (k, d + 9)."""
    digits = torch.stack([offsets // BASE**digit % BASE for digit in range(DIGITS)], dim=1)
    return torch.cat([rows, digits.flatten(0, 1).T.to(rows.dtype)], dim=1)


def split_offsets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `with_offsets`: rows (k, d), and offsets (3, k) long."""
    features, digits = rows.tensor_split([rows.shape[1] - AXES * DIGITS], dim=1)
    by_axis = digits.long().T.unflatten(0, (AXES, DIGITS))
    offsets = by_axis[:, 0]
    for digit in range(1, DIGITS):
        offsets = offsets + by_axis[:, digit] * BASE**digit
    return features, offsets


@dataclass(frozen=True)
class ItemSpan:
    """The placeholders of one item in a prompt.

    Attributes:
        start: the first.
        length: how many there are.
        extent: how many positions the whole item takes: its largest offset, and one more.
    """

    start: int
    length: int
    extent: int


def prompt_positions(length: int, runs: Sequence[ItemSpan]) -> tuple[Tensor, int]:
    """Positions (3, length) of a prompt, final for text and provisional for visual tokens; and what to add to a later token's place.

    Args:
        length: tokens of the prompt.
        runs: of all items, in the order of the prompt.
    """
    found = torch.empty(length, dtype=torch.long)
    place, position = 0, 0
    for run in runs:
        text = run.start - place
        found[place : run.start] = torch.arange(position, position + text)
        position += text
        found[run.start : run.start + run.length] = position
        place, position = run.start + run.length, position + run.extent
    found[place:] = torch.arange(position, position + length - place)
    # The stock model continues after the largest position, and so does text after the last item.
    return found.expand(AXES, length).clone(), position - place


class CarriedOffsets(nn.Module):
    """The offsets of the tokens of one forward pass.

    Both buffers stay where they are, because recorded graphs of an accelerator read and write fixed addresses.

    Args:
        tokens: most tokens of a forward pass.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        # One more than is used, so that no part of them is contiguous: vLLM's compiled decoder expects that of positions.
        self.register_buffer("offsets", torch.zeros(AXES, tokens + 1, dtype=torch.long), persistent=False)
        self.register_buffer("positions", torch.zeros(AXES, tokens + 1, dtype=torch.long), persistent=False)
        self.offsets: Tensor
        self.positions: Tensor
        self._used = False

    def place(self, found: Sequence[Tensor], visual: Tensor | None) -> None:
        """Take the offsets of the next forward pass.

        Args:
            found: (3, k) for each part of an item that it holds; empty if it holds none.
            visual: (s,) bool: which of its tokens they belong to; `None` if there are none.
        """
        if self._used:
            self.offsets.zero_()
        self._used = bool(found)
        if found and visual is not None:
            mask = visual.to(self.offsets.device, non_blocking=True)
            # Unlike an assignment through the mask, this does not make the host wait for an accelerator.
            self.offsets[:, : len(visual)].masked_scatter_(mask.expand(AXES, -1), torch.cat(list(found), dim=1))

    def added(self, positions: Tensor) -> Tensor:
        """Positions (3, s) with the offsets of the pass."""
        total = self.positions[:, : positions.shape[1]]
        torch.add(positions, self.offsets[:, : positions.shape[1]], out=total)
        return total


class Positioned(Architecture):
    """An architecture whose visual tokens have positions in time, row and column, which kept tokens keep."""

    rotary_axes = AXES
    rotary_factor = 4

    @abstractmethod
    def offsets(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> Tensor:
        """(3, N) long, for all placeholders of a whole item: their positions, counted from the position where it starts."""

    @abstractmethod
    def extent(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """How many positions a whole item takes: its largest offset, and one more."""

    def positions(self, model: Any, request: ItemRequest, layout: Layout, kwargs: Mapping[str, Any]) -> Tensor:
        """The item's own, and those of the text around it."""
        before, after = (len(ids) for ids in self.before_and_after(model.config, request))
        kind = kind_of(kwargs)
        end = before + self.extent(model, kind, kwargs)
        text = torch.arange(max(before, after)).expand(AXES, -1)
        return self.for_decoder(torch.cat([text[:, :before], self.offsets(model, kind, kwargs) + before, text[:, :after] + end], dim=1))

    def for_decoder(self, positions: Tensor) -> Tensor:
        """Positions (3, s) in the form that the decoder takes."""
        return positions

    def finished(self, model: Any, rows: Tensor, kept: Tensor, layout: Layout, item: Mapping[str, Any]) -> Tensor:
        """Rows that carry how far their positions are from that of the item's start."""
        offsets = upload(self.offsets(model, kind_of(item), item), kept.device)
        return with_offsets(rows, offsets.index_select(1, kept))


class InOrder(Positioned):
    """An architecture with one kind of position, which counts all tokens of a whole item, one after the other.

    vLLM's runner treats it like one with three kinds, which are equal here, because only then it asks the model for positions.
    """

    rotary_factor = 1

    @abstractmethod
    def length(self, config: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """How many placeholders a whole item has; the item is alone, with or without an axis for items."""

    def offsets(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> Tensor:
        """One after the other."""
        return torch.arange(self.length(model.config, kind, item)).expand(AXES, -1)

    def extent(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """As many as there are placeholders."""
        return self.length(model.config, kind, item)

    def for_decoder(self, positions: Tensor) -> Tensor:
        """One kind."""
        return positions[0]


def kind_of(kwargs: Mapping[str, Any]) -> MediaKind:
    """What an item is, by the names of its arguments."""
    return "video" if "video_grid_thw" in kwargs or "pixel_values_videos" in kwargs else "image"


class PositionedModel(ServedModel):
    """A served model whose kept visual tokens keep their positions in time, row and column."""

    architecture: Positioned
    supports_mrope: ClassVar[bool] = True

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        _check_server(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.carried = CarriedOffsets(vllm_config.scheduler_config.max_num_batched_tokens)
        model, text = vllm_config.model_config, vllm_config.model_config.hf_config.get_text_config()
        # An answer may go on beyond the last position that the rotary table has, which would end the server: it stays at the last one.
        self._last_position = max(self.architecture.rotary_factor * text.max_position_embeddings, model.max_model_len) - 1

    def get_mrope_input_positions(self, input_tokens: Sequence[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """See vLLM, and `prompt_positions`."""
        runs = []
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            if feature.data is None:
                raise ConsistencyError("the size of an image did not arrive with it; this version of vLLM is not supported")
            item = {name: field.data for name, field in feature.data.items()}
            extent = self.architecture.extent(self, feature.modality, item)
            runs.append(ItemSpan(feature.mm_position.offset, feature.mm_position.length, extent))
        return prompt_positions(len(input_tokens), runs)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Sequence[Tensor] | None = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """See vLLM; takes the offsets off the rows of visual tokens."""
        pairs = [split_offsets(rows) for rows in (() if multimodal_embeddings is None else multimodal_embeddings)]
        self.carried.place([offsets for _, offsets in pairs], is_multimodal)
        rows = [features for features, _ in pairs]
        return super().embed_input_ids(input_ids, rows, is_multimodal=is_multimodal)  # type: ignore[misc, no-any-return]

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See vLLM; visual tokens are at their own positions."""
        own = self.architecture.for_decoder(self.carried.added(positions).clamp_(max=self._last_position))
        return super().forward(input_ids, own, *args, **kwargs)  # type: ignore[misc]


def _check_server(vllm_config: Any) -> None:
    """Refuse what calls the model in another way than one `embed_input_ids` before each forward pass over the same tokens.

    Raises:
        UnsupportedError: the message names the setting.
    """
    parallel, speculative, lora = vllm_config.parallel_config, vllm_config.speculative_config, vllm_config.lora_config
    refused: Mapping[str, bool] = {
        "two micro-batches that overlap (--enable-dbo, --ubatch-size)": parallel.use_ubatching,
        "context parallelism for prefills": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "a draft model (--speculative-config)": speculative is not None and speculative.method not in ("ngram", "suffix"),
        "vLLM's own pruning (--video-pruning-rate)": vllm_config.model_config.multimodal_config.is_multimodal_pruning_enabled(),
        "recorded graphs of the vision tower (cudagraph_mm_encoder)": vllm_config.compilation_config.cudagraph_mm_encoder,
        "LoRA adapters of the vision tower (--enable-tower-connector-lora)": lora is not None and lora.enable_tower_connector_lora,
        "one kind of rotary position instead of three": not vllm_config.model_config.uses_mrope,
    }
    for what, there in refused.items():
        if there:
            raise UnsupportedError(f"this model is not served with fewer visual tokens under {what}; serve it without")
