"""What the plugin must know of one architecture of vLLM: `Architecture`, one subclass for each, stateless."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.signals.attention import attention_rows, received_attention
from foveate.errors import UnsupportedModelError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.plugins.vllm.lookahead import mean_over_ranks
from foveate.plugins.vllm.requests import ItemRequest

__all__ = ["Architecture", "TowerReader"]


class Architecture(ABC):
    """Knows where things are in one kind of served model, and nothing about methods.

    Attributes:
        placeholders: for each kind of item the attribute of the configuration that holds its placeholder's token id.
        signals: those of the vision tower that it gives, out of "tower_attention" and "tower_states".
        rotary_axes: how many kinds of rotary position the decoder has.
        rotary_factor: how many times `max_position_embeddings` vLLM's rotary table has: four with three kinds of position, one with one.
    """

    placeholders: Mapping[MediaKind, str] = {"image": "image_token_index"}
    signals: frozenset[str] = frozenset()
    rotary_axes: int = 1
    rotary_factor: int = 1

    def check(self, config: Any) -> None:  # noqa: B027 - most architectures have no variant to refuse
        """Refuse a variant of the model.

        Raises:
            UnsupportedModelError: the message names the setting that prevents it.
        """

    @abstractmethod
    def front_layout(self, config: Any, kind: MediaKind, item: Any, kwargs: Mapping[str, Any]) -> Layout:
        """The layout of an image in the server's front, where there are no features yet.

        Args:
            config: the model's configuration.
            kind: of the item.
            item: the item as vLLM's parser made it; an image has a size.
            kwargs: what the processor made of it, by name.
        """

    @abstractmethod
    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """The layouts of a batch of items in the worker.

        Args:
            config: the model's configuration.
            kind: of the items.
            kwargs: what vLLM passes to `embed_multimodal`.
        """

    @abstractmethod
    def subset(self, kind: MediaKind, kwargs: Mapping[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """The arguments of `embed_multimodal` for some items of the batch."""

    def decoder(self, model: Any) -> Any:
        """The module with the decoder's layers."""
        return model.get_language_model().model

    def tower_attention(self, model: Any) -> nn.Module:
        """The module whose arguments are the queries and keys of the vision tower's attention that ranks patches."""
        raise UnsupportedModelError(f"{type(self).__name__} does not read attention in the vision tower")

    def projector(self, model: Any) -> nn.Module:
        """The projector; its first argument is the features before projection."""
        return model.multi_modal_projector  # type: ignore[no-any-return]

    def class_token(self, config: Any) -> bool:
        """Whether the tower's sequences begin with a class token; if so, its attention ranks the patches."""
        return False

    def fold(self, config: Any, signal: str, values: Tensor, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Bring values read in the vision tower into the order of visual tokens.

        Args:
            config: the model's configuration.
            signal: "tower_attention" or "tower_states".
            values: (p, c) in the tower's own order, without class tokens, one item after the other.
            kind: of the items.
            kwargs: what was passed to `embed_multimodal`.

        Returns:
            per item (n, c).
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not read the vision tower")

    def before_and_after(self, config: Any, request: ItemRequest) -> tuple[Sequence[int], Sequence[int]]:
        """The token ids around an item."""
        assert request.turn is not None
        return request.turn.before, request.turn.after

    def positions(self, model: Any, request: ItemRequest, layout: Layout, kwargs: Mapping[str, Any]) -> Tensor:
        """Rotary positions of the text before an item, all its placeholders, and the text after it: (s,), or (axes, s)."""
        before, after = self.before_and_after(model.config, request)
        return torch.arange(len(before) + layout.placeholders + len(after))

    def injections(self, model: Any, rows: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Split features into what enters the decoder, and what its first layers add to their output at the same places."""
        return rows, ()

    def finished(self, model: Any, rows: Tensor, kept: Tensor, layout: Layout, item: Mapping[str, Any]) -> Tensor:
        """What `embed_multimodal` returns for an item.

        Args:
            model: the served model.
            rows: (k, d) the rows that stay.
            kept: (k,) which placeholders of the whole item they are.
            layout: of the item.
            item: its own arguments.
        """
        return rows


class TowerReader:
    """Reads queries and keys of one attention module of a vision tower, and what enters the projector, while both run.

    Attributes:
        attention: per call (b, n) or (1, n), attention that each patch received, without class tokens.
        states: per call (b, n, c) or (n, c), what entered the projector.
    """

    def __init__(self, class_token: bool) -> None:
        self._class_token = class_token
        self.attention: list[Tensor] = []
        self.states: list[Tensor] = []

    @contextmanager
    def reading(self, attention: nn.Module | None, projector: nn.Module | None) -> Iterator[None]:
        """Read inside this context."""
        hooks = []
        if attention is not None:
            hooks.append(attention.register_forward_pre_hook(self._queries_and_keys, with_kwargs=True))
        if projector is not None:
            hooks.append(projector.register_forward_pre_hook(self._features, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _queries_and_keys(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = dict(zip(("query", "key", "value", "cu_seqlens"), args, strict=False)) | dict(kwargs)
        query, key = (_by_head(given[name], heads) for name, heads in (("query", module.num_heads), ("key", module.num_kv_heads)))
        bounds = given.get("cu_seqlens")
        with torch.no_grad():
            if bounds is None:
                self.attention.append(mean_over_ranks(self._received(query, key, module.scale)))
                return
            lengths = bounds.diff().tolist()
            parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)
            self.attention.append(mean_over_ranks(torch.cat([self._received(*part, module.scale) for part in parts], dim=1)))

    def _received(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        if not self._class_token:
            return received_attention(query, key, scaling=scale)
        row = torch.zeros(query.shape[0], 1, dtype=torch.long, device=query.device)
        return attention_rows(query, key, row, causal=False, scaling=scale)[:, 0, 1:]

    def _features(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.states.append((args[0] if args else next(iter(kwargs.values()))).detach())


def _by_head(values: Tensor, heads: int) -> Tensor:
    """(b, s, heads * d) or (b, s, heads, d) as (b, heads, s, d)."""
    return values.reshape(values.shape[0], values.shape[1], heads, -1).transpose(1, 2)
