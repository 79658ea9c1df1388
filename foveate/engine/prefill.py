"""One forward pass in which visual tokens leave: `Prefill` lives from the decoder's entry to its exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from foveate.engine.arguments import cache_of
from foveate.engine.cache import CutState, cut_layer, layer_state, new_columns, past_columns, physical_length, trim_layer
from foveate.engine.clock import seconds
from foveate.engine.injection import Injection
from foveate.engine.invariants import check_argument, check_called, check_length, check_mask, check_order, check_shape
from foveate.engine.readings import ATTENTION, Readings
from foveate.engine.tracking import TrackedImage, last_tokens, next_positions, question_tokens, text_behind, track, twin_rows
from foveate.errors import InputError, UnsupportedError
from foveate.families import Family, ImageTokens
from foveate.method import Method, checked_plans
from foveate.plan import Plan
from foveate.report import Report

__all__ = ["Prefill", "causal_mask"]


class _Sizes:
    """Stands in for a cache where transformers asks one for the sizes of a mask."""

    is_compileable = False

    def __init__(self, past: int) -> None:
        self.past = past

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    get_seq_length = get_query_offset

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.past + query_length, 0


def causal_mask(config: Any, states: Tensor, columns: Tensor | None, past: int) -> Any:
    """The mask that the decoder's own attention kernel wants, for `past` earlier keys and causal `states` (b, q, d).

    Args:
        columns: (b, past + q) bool, false where a key is padding; `None` when none is.
    """
    return create_causal_mask(config, states, columns, _Sizes(past))


class Prefill:
    """Runs the cuts of one forward pass.

    Args:
        model: the model that was given to `compress`.
        family: its family.
        layers: the decoder's layers, as they were hooked.
        cuts: the method at each decoder layer where tokens leave.
        images: where the images lie, per row.
        input_ids: (b, s) on the CPU.
        embeddings: (b, s, d), what enters the decoder.
        mask: the incoming 2-D mask over all logical columns, or `None`.
        position_ids: (..., 1 or b, s), what the decoder was given, or `None`.
        cache: the cache that the decoder was given, or `None`.
        fixed: per row and image the signals that do not change on the way, (n, ...) each: those of the vision tower.
        injection: features that the decoder adds to visual tokens behind its first layers, if any.
        spent: seconds that methods have cost already, in the vision tower.
        trim: take the tokens from the earlier layers' caches too.
        asked: the input columns whose logits are wanted, ascending or not; `None` if the caller takes those that remain.

    Raises:
        BudgetError, InputError, UnsupportedError: before any layer has run.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        layers: Sequence[nn.Module],
        cuts: Mapping[int, Method],
        images: Sequence[Sequence[ImageTokens]],
        input_ids: Tensor,
        embeddings: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Any,
        *,
        fixed: Sequence[Sequence[Mapping[str, Tensor]]],
        injection: Injection | None,
        spent: float,
        trim: bool,
        asked: Sequence[int] | None,
    ) -> None:
        self.family, self.cuts, self.trim = family, cuts, trim
        self.config: Any = family.decoder(model).config
        self.layers = layers
        self.batch, self.tokens = embeddings.shape[:2]
        self.past = cache.get_seq_length() if cache is not None else 0
        self.held = [physical_length(layer) for layer in cache.layers] if cache is not None else []
        self.due = 0
        self.deciding = False
        self.mask = mask
        self.valid = new_columns(mask, self.past, self.past + self.tokens, self.batch, torch.device("cpu"))
        self.columns = torch.arange(self.tokens).expand(self.batch, -1)
        placeholders = torch.tensor(list(family.placeholders(model).values()))
        behind = text_behind(images, torch.isin(input_ids, placeholders), self.valid)
        self.images = track(images, fixed, input_ids, self.valid, behind.sum(1).tolist())
        self.injection = injection
        self.twins = twin_rows(input_ids, embeddings, self.valid)
        self.segments: list[tuple[int, Tensor]] = [(0, self.valid)]
        self.short: dict[str, Any] = {}
        self.masks: dict[int | None, Any] = {}
        self.next_position = next_positions(position_ids, self.valid, self.past)
        self.readings = Readings(family, self.layers, cuts, question_tokens(behind, self.valid))
        self.seconds = spent
        self._check(input_ids, asked)

    def enter(self, index: int, states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Hook before decoder layer `index`: cut if a method says so, and shorten whatever else the layer is given."""
        check_order(index, self.due)
        self.due += 1
        check_shape(index, states, self.batch, self.valid.shape[1])
        kwargs.update(self.short)
        if index in self.cuts:
            check_argument(index, "position_embeddings", kwargs)
            if index == 0:
                self.readings.look_ahead(self.cuts[0].needs, self.columns, self.valid, states, args, kwargs)
            states = self._cut(index, self.cuts[index], states, kwargs)
            kwargs.update(self.short)
        if self.short:
            kwargs["attention_mask"] = self._mask(index, states, cache_of(kwargs))
        check_mask(index, kwargs.get("attention_mask"), self._held(index) + states.shape[1])
        self.readings.attach(index, self.columns, self.valid, states.device)
        return states

    def leave(self, index: int, states: Tensor) -> Tensor:
        """Hook behind decoder layer `index`: add what the decoder itself would have added to its visual tokens."""
        return states if self.injection is None else self.injection.add(index, states)

    def finish(self, cache: Any) -> Report:
        """After the decoder's last layer: make the cache keep its logical length, and say what was done."""
        self._check_cut()
        check_called(self.due, len(self.layers))
        layers = cache.layers if cache is not None else []
        bytes_before = bytes_after = 0
        for index, layer in enumerate(layers):
            segment, valid = self.segments[-1] if self.trim else [part for part in self.segments if part[0] <= index][-1]
            check_length(index, physical_length(layer), self._held(index) + valid.shape[1])
            if valid is not self.segments[0][1]:
                cut_layer(layer, self._state(cache, index, 0 if self.trim else segment, valid))
            per_token = sum(t.shape[1] * t.shape[3] * t.element_size() for t in (layer.keys, layer.values))
            bytes_before += per_token * int(self.segments[0][1].sum())
            bytes_after += per_token * int(valid.sum())
        columns = tuple(tuple(row) for row in self.columns.tolist())
        return Report(tuple(image.report() for image in self.images), bytes_before, bytes_after, self.seconds, columns)

    def close(self) -> None:
        """Leave nothing in the model, after success and failure alike."""
        self.readings.clear()

    def at_input_columns(self, states: Tensor) -> Tensor:
        """The decoder's output (b, k, d) spread over the input's columns (b, s, d), where `logits_to_keep` looks for them.

        Padding stands for the real token before it. A column that left stands for the one before it; nobody asked for it.
        """
        columns = torch.arange(self.tokens)
        places = (self.columns[:, None, :] <= columns[:, None]).sum(-1) - 1
        return _take(states, places.maximum((~self.valid).sum(1, keepdim=True)))

    def _held(self, index: int) -> int:
        """Keys that the cache of layer `index` held before this pass."""
        return self.held[index] if index < len(self.held) else 0

    def _check(self, input_ids: Tensor, asked: Sequence[int] | None) -> None:
        empty = (~self.valid.any(1)).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"row {empty[0]} of the batch is padding alone, by its attention_mask; take it out")
        if self.config._attn_implementation == "flex_attention" and any(method.needs & ATTENTION for method in self.cuts.values()):
            raise UnsupportedError(
                "attention rows cannot be read under flex_attention, whose masks are compiled; use sdpa, eager or a flash "
                "implementation (model.set_attn_implementation), or a method without attention"
            )
        for image in self.images:
            count = len(image.plan)
            for method in self.cuts.values():
                count = method.budget(count, image.tokens.grid[0])
            if count < len(image.plan) or not all(method.exact for method in self.cuts.values()):
                self._check_columns(image, asked)

    def _check_columns(self, image: TrackedImage, asked: Sequence[int] | None) -> None:
        """Refuse an image whose tokens the caller predicts from, because they may leave."""
        if int(last_tokens(self.valid)[image.row]) in image.tokens.columns:
            raise InputError(
                f"the prompt of row {image.row} ends with a visual token, which may leave, and the next token would be predicted from it; "
                "put at least one token of text after the picture (chat templates do, with add_generation_prompt=True), or keep all with "
                "keep=1.0"
            )
        wanted = set(image.tokens.columns.tolist()) & set(asked or ())
        if wanted:
            raise InputError(
                f"logits_to_keep asks for input column {min(wanted)} of row {image.row}, a visual token that may leave; ask for columns of "
                "text, or leave logits_to_keep out and read handle.report.columns"
            )

    def _check_cut(self) -> None:
        missing = sorted(set(self.cuts) - {index for index, _ in self.segments[1:]})
        if missing:
            raise UnsupportedError(
                f"the decoder ran without calling its layer {missing[0]} as a module, so no tokens left there: something skips layers or "
                "runs compiled code (torch.compile) in their place; take it out, or remove the handle"
            )

    def _cut(self, index: int, method: Method, states: Tensor, kwargs: dict[str, Any]) -> Tensor:
        before = states.shape[1]
        plans = self._decide(method, states)
        self._check_merges(method, plans)
        gather, places = self._route(plans)
        where = gather.to(states.device)
        short = _take(states, where)
        for image, plan in zip(self.images, plans, strict=True):
            slots = places[image.row, image.slots[plan.kept]]
            if plan.merged.numel():
                old = states[image.row].index_select(0, image.slots.to(states.device))
                short[image.row, slots.to(states.device)] = plan.merge(old)
                if self.injection is not None:
                    self.injection.merge(image.row, image.slots, plan)
            image.advance(plan, slots, method)
        if self.injection is not None:
            self.injection.gather(gather, self.valid)
        cache = cache_of(kwargs)
        if cache is not None and self.trim:
            for place, layer in enumerate(cache.layers[:index]):
                check_length(place, physical_length(layer), self._held(place) + before)
                trim_layer(layer, where, before)
        self.segments.append((index, self.valid))
        self.masks = {}
        self.short = {"position_embeddings": tuple(_take(part, where) for part in kwargs["position_embeddings"])}
        # Gaps in the positions would look like packed sequences to the attention kernels; cos and sin carry the real ones.
        start = self._held(index)
        self.short["position_ids"] = torch.arange(start, start + short.shape[1], device=states.device).expand(self.batch, -1)
        return short

    def _check_merges(self, method: Method, plans: Sequence[Plan]) -> None:
        """Refuse to merge into, or from, a token that the attention mask hides: it has no place in what the next layer sees."""
        for image, plan in zip(self.images, plans, strict=True):
            if plan.merged.numel() and not bool(self.valid[image.row, image.slots].all()):
                raise InputError(
                    f"attention_mask hides visual tokens of row {image.row}, and {type(method).__name__} merges them; let the mask show "
                    "the whole picture, take the picture out of the prompt, or use a method that does not merge"
                )

    def _decide(self, method: Method, states: Tensor) -> list[Plan]:
        start = seconds(states.device)
        owners = [image for image in self.images if self.twins[image.row] == image.row]
        self.deciding = True
        try:
            with torch.no_grad():
                places, rows = self.readings.collect(states, self.columns, self.valid, method.needs)
                views = [image.view(states, places, rows[image.row], method.needs) for image in owners]
                plans = checked_plans(method, views, method.plans(views))
        finally:
            self.deciding = False
        decided = {(image.row, image.position): plan for image, plan in zip(owners, plans, strict=True)}
        self.seconds += seconds(states.device) - start + self.readings.clear()
        return [decided[self.twins[image.row], image.position] for image in self.images]

    def _route(self, plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
        """Where the next sequence comes from (b, k), and where each present place goes (b, n); shorter rows are padded on the left."""
        going = self.valid.clone()
        for image, plan in zip(self.images, plans, strict=True):
            going[image.row, image.slots[plan.merged]] = False
            going[image.row, image.slots[plan.dropped]] = False
        counts = going.sum(1, keepdim=True)
        width = int(counts.max())
        self.valid = torch.arange(width) >= width - counts
        gather = torch.zeros(self.batch, width, dtype=torch.long)
        gather[self.valid] = going.nonzero()[:, 1]
        self.columns = self.columns.gather(1, gather).masked_fill(~self.valid, -1)
        return gather, going.long().cumsum(1) - 1 + width - counts

    def _mask(self, index: int, states: Tensor, cache: Any) -> Any:
        """The mask of layer `index`; layers whose caches hold the same earlier tokens share it."""
        state = layer_state(cache, index)
        key = None if state is None else state.segment
        if key not in self.masks:
            columns = self._key_columns(state, states.device if self.past else torch.device("cpu"))
            hidden = None if bool(columns.all()) else columns.to(states.device)
            self.masks[key] = causal_mask(self.config, states, hidden, columns.shape[1] - states.shape[1])
        return self.masks[key]

    def _key_columns(self, state: CutState | None, device: torch.device) -> Tensor:
        past = past_columns(state, self.mask, self.past, self.batch, device)
        return torch.cat([past, self.valid.to(device)], dim=1)

    def _state(self, cache: Any, index: int, segment: int, valid: Tensor) -> CutState:
        device = cache.layers[index].keys.device
        past = past_columns(layer_state(cache, index), self.mask, self.past, self.batch, device)
        columns = torch.cat([past, valid.to(device)], dim=1)
        return CutState(columns, self.next_position.to(device), self.past + self.tokens, segment)


def _take(tensor: Tensor, where: Tensor) -> Tensor:
    """Rows `where` (b, k) of a tensor (..., 1 or b, n, d), along its second-last dimension and on its device."""
    where = where.to(tensor.device)
    if where.shape[0] == 1:
        return tensor.index_select(-2, where[0])
    whole = tensor.expand(*tensor.shape[:-3], where.shape[0], -1, -1)
    return whole.gather(-2, where[..., None].expand(*whole.shape[:-2], -1, whole.shape[-1]))
