"""Reads the states of the kept visual tokens at any decoder layer, while a model runs, compressed or not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from foveate.errors import LayerError
from foveate.families import family_of

if TYPE_CHECKING:
    from foveate.report import Report

__all__ = ["SOURCES", "KeptStates", "Source", "check_layers"]

Source = Literal["hidden_states", "attention_output"]

SOURCES: tuple[Source, ...] = ("hidden_states", "attention_output")
"""What is read at a layer: the states that enter it (after a cut there), and the output of its self-attention before the residual."""


class KeptStates:
    """Within this context, the last prefill's states at some decoder layers can be read.

    Enter it after `foveate.compress`, whose hooks then run first, so that it reads what really enters a layer.

    Args:
        model: a loaded model of a known family.
        layers: decoder layers to read at, from 0.

    Raises:
        LayerError: the model has no such layer.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        self._family, self._model = family_of(model), model
        check_layers(model, layers)
        self.layers = tuple(layers)
        self._ids = torch.empty(0, 0, dtype=torch.long)
        self._seen: dict[tuple[Source, int], Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> KeptStates:
        attach: Callable[..., Any] = self._family.backbone(self._model).register_forward_pre_hook
        self._hooks.append(attach(self._before_backbone, with_kwargs=True))
        decoder = self._family.layers(self._model)
        for index in self.layers:
            before = functools.partial(self._before_layer, index)
            self._hooks.append(decoder[index].register_forward_pre_hook(before, with_kwargs=True))
            after = functools.partial(self._after_attention, index)
            self._hooks.append(self._family.attention(decoder[index]).register_forward_hook(after))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._seen = [], {}

    def read(self, report: Report | None) -> Iterator[tuple[int, Source, int, Tensor]]:
        """Row of the batch, source, layer, and the states (k, d) of the row's kept visual tokens, in order.

        Before the cut these are the rows of those tokens among all tokens; a merged token is represented by the one it was merged into.

        Args:
            report: the handle's report on the same prefill; `None` for the full model.
        """
        placeholders = torch.tensor(list(self._family.placeholders(self._model).values()))
        width = self._ids.shape[1]
        for (source, layer), states in self._seen.items():
            for row, ids in enumerate(self._ids):
                visual = torch.isin(ids, placeholders)
                columns = torch.tensor(report.columns[row]) if report is not None and report.columns else torch.arange(width)
                stayed = torch.where(columns >= 0, visual[columns], False)
                cut = report is not None and any(stage.layer <= layer for image in report.images for stage in image.stages)
                places = stayed.nonzero()[:, 0] if cut or report is None else columns[stayed]
                yield row, source, layer, states[row].index_select(0, places.to(states.device))

    def _before_backbone(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if ids is not None and ids.shape[1] > 1:
            self._ids, self._seen = ids.cpu(), {}

    def _before_layer(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep("hidden_states", index, args[0] if args else kwargs["hidden_states"])

    def _after_attention(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        self._keep("attention_output", index, output[0])

    def _keep(self, source: Source, index: int, states: Tensor) -> None:
        if states.shape[1] > 1:
            self._seen[source, index] = states


def check_layers(model: nn.Module, layers: Sequence[int]) -> None:
    """Check that the decoder has these layers.

    Raises:
        LayerError: it does not, or none is named, or one is named twice.
    """
    there = len(family_of(model).layers(model))
    wrong = [layer for layer in layers if not 0 <= layer < there]
    if wrong:
        raise LayerError(f"layers {', '.join(map(str, wrong))}: this decoder has {there} layers, 0 to {there - 1}")
    if not layers or len(set(layers)) < len(layers):
        raise LayerError(f"layers {', '.join(map(str, layers)) or 'none'}: name at least one layer, and each only once")
