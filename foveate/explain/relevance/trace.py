"""Record a forward pass by the inputs of its layers alone, and walk back through it.

Each layer runs without a graph, and its output starts a new one. On the way back each layer runs again from its input, this time with a
graph that is cut at the attention: the gradient of the attention's output is collected there, and `foveate.explain.relevance.blocks` does
the attention's own backward pass. So memory holds the layers' inputs and one layer's activations, whatever lies between two layers takes
part in the gradient, and several targets share one recomputation of a layer and its attention.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.signals.attention import Probe, RowsRead
from foveate.engine.standins import StandIns
from foveate.errors import UnsupportedModelError
from foveate.explain.relevance.blocks import AttentionInputs, InputGradients, attention_backward, attention_output, attention_relevance

__all__ = ["LayerCall", "recorded", "walk_attention", "walk_back"]

_TOLERANCE = 1e-2
"""How far an attention's output may deviate from the formula, as a share of its largest value; more in low precision."""


@dataclass
class LayerCall:
    """One layer's call in the forward pass.

    Attributes:
        forward: the layer's own forward.
        attention: its attention module.
        states: (b, n, d), its input, with the graph of what lies between the layers.
        args: further positional arguments.
        kwargs: keyword arguments.
        output: (b, n, d), its output, as the start of a new graph.
    """

    forward: Callable[..., Any]
    attention: nn.Module
    states: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    def again(self, states: Tensor) -> Tensor:
        """Run the layer once more."""
        return _states(self.forward(states, *self.args, **self.kwargs))


@contextmanager
def recorded(layers: Sequence[nn.Module], attentions: Sequence[nn.Module]) -> Iterator[list[LayerCall]]:
    """Record the calls of decoder layers that this thread makes, in order.

    Args:
        layers: their first argument is the hidden states.
        attentions: their attention modules.
    """
    calls: list[LayerCall] = []
    stand_ins = [StandIns(layer) for layer in layers]
    try:
        for attention, stand_in in zip(attentions, stand_ins, strict=True):
            stand_in.put("forward", functools.partial(_record, calls, attention, threading.get_ident()))
        yield calls
    finally:
        for stand_in in stand_ins:
            stand_in.remove()


def walk_back(calls: list[LayerCall], targets: Sequence[Tensor], relevance: Tensor, *, block: int | None, keep: bool = False) -> Tensor:
    """Relevance at the input of the first layer, with gradients.

    Args:
        calls: what `recorded` returned; emptied on the way to free memory, unless `keep`.
        targets: t scalars, computed from the last layer's output.
        relevance: (t, b, n), one-hot rows at the positions that the targets are predicted from.
        block: query rows per block; see `foveate.relevance`.
        keep: leave the calls and the targets' graph in place for another walk.

    Returns:
        (t, b, n)

    Raises:
        UnsupportedModelError: a layer's attention does not follow the formula, or the targets have no graph.
    """
    if not all(target.requires_grad for target in targets):
        raise UnsupportedModelError("no graph connects the logits with the decoder's layers; the model detaches them somewhere")
    pending: list[dict[int, Tensor]] = [{} for _ in targets]
    for number, target in enumerate(targets):
        _spread(pending[number], calls, target, None, keep or number + 1 < len(targets))
    for index in reversed(range(len(calls))):
        call = calls[index]
        arrived = [own.pop(index) if index in own else torch.zeros_like(call.output) for own in pending]
        relevance, gradients = _layer_back(index, call, arrived, relevance, block)
        for number, gradient in enumerate(gradients):
            _spread(pending[number], calls[:index], call.states, gradient, keep or number + 1 < len(gradients))
        if not keep:
            calls.pop()
    return relevance


def walk_attention(calls: Sequence[LayerCall], relevance: Tensor, *, block: int | None) -> Tensor:
    """Like `walk_back`, by attention alone: each layer runs again up to its attention, without a graph."""
    for index in reversed(range(len(calls))):
        call = calls[index]
        capture = _Capture(call.attention, index, ahead=True)
        try:
            call.again(call.states.detach())
        except RowsRead:
            pass
        finally:
            capture.detach()
        relevance = attention_relevance(capture.seen(), relevance.to(call.output.device), block=block)
    return relevance


class _Capture(Probe):
    """Cuts the graph at one attention module's output, and keeps the module's arguments."""

    def __init__(self, module: nn.Module, index: int, *, ahead: bool = False) -> None:
        super().__init__(module)
        self.index, self.ahead = index, ahead
        self.attended: AttentionInputs | None = None
        self.output: Tensor | None = None

    def attend(
        self, implementation: Callable[..., Any], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        if mask is not None and not isinstance(mask, Tensor):
            raise UnsupportedModelError(
                f"attention kernel {self.implementation!r} has a {type(mask).__name__} as its mask, which relevance cannot read; "
                "load the model with attn_implementation='sdpa'"
            )
        if self.attended is not None:
            raise UnsupportedModelError(f"decoder layer {self.index} calls its attention more than once; relevance needs one map per layer")
        self.attended = AttentionInputs(query, key, value, mask, {"causal": _is_causal(module, options), **options})
        if self.ahead:
            raise RowsRead
        with torch.no_grad():
            output, weights = implementation(module, query, key, value, mask, **options)
        self.output = output.detach().requires_grad_()
        return self.output, weights

    def seen(self) -> AttentionInputs:
        """The attention's arguments."""
        if self.attended is None:
            raise UnsupportedModelError(
                f"the attention of decoder layer {self.index} ({type(self._module).__name__}) does not go through transformers' "
                "attention interface, so there is no map to explain"
            )
        return self.attended


def _layer_back(index: int, call: LayerCall, arrived: list[Tensor], relevance: Tensor, block: int | None) -> tuple[Tensor, list[Tensor]]:
    """Relevance before one layer, and the gradient of its input per target; none if nothing before it needs one."""
    goes_on = call.states.requires_grad
    states = call.states.detach().requires_grad_(goes_on)
    capture = _Capture(call.attention, index)
    try:
        output = call.again(states)
    finally:
        capture.detach()
    attended, cut = capture.seen(), capture.output
    assert cut is not None
    relevance = relevance.to(output.device)
    _check_formula(index, attended, cut, relevance)
    wanted = [cut, states] if goes_on else [cut]
    direct = [
        torch.autograd.grad(output, wanted, gradient.to(output.device), retain_graph=number + 1 < len(arrived))
        for number, gradient in enumerate(arrived)
    ]
    relevance, through = attention_backward(attended, relevance, [found[0] for found in direct], inputs=goes_on, block=block)
    entrances = [attended.query, attended.key, attended.value]
    return relevance, [
        found[1] + torch.autograd.grad(entrances, states, _like(gradients, entrances), retain_graph=number + 1 < len(through))[0]
        for number, (found, gradients) in enumerate(zip(direct, through, strict=False))
    ]


def _like(gradients: InputGradients, entrances: Sequence[Tensor]) -> list[Tensor]:
    return [own.to(at.dtype) for own, at in zip((gradients.query, gradients.key, gradients.value), entrances, strict=True)]


def _spread(pending: dict[int, Tensor], calls: Sequence[LayerCall], value: Tensor, gradient: Tensor | None, retain: bool) -> None:
    """Carry a gradient from the input of a layer, or from a target, back to the outputs of the layers that it was computed from."""
    found: Sequence[Tensor | None]
    if calls and value is calls[-1].output:
        found = [*[None] * (len(calls) - 1), gradient]
    elif value.requires_grad:
        found = torch.autograd.grad(value, [call.output for call in calls], gradient, retain_graph=retain, allow_unused=True)
    else:
        found = []
    for index, own in enumerate(found):
        if own is not None:
            pending[index] = pending[index] + own if index in pending else own


def _check_formula(index: int, attended: AttentionInputs, output: Tensor, relevance: Tensor) -> None:
    """Check that the kernel follows the formula, at the rows that the targets are predicted from."""
    rows = relevance.argmax(-1).T
    with torch.no_grad():
        expected = attention_output(attended, rows)
        actual = output.gather(1, rows[:, :, None, None].expand(-1, -1, *output.shape[2:])).to(expected.dtype)
        tolerance = max(_TOLERANCE, torch.finfo(output.dtype).eps ** 0.5)
        if bool((actual - expected).abs().max() > tolerance * expected.abs().max()):
            raise UnsupportedModelError(
                f"the attention of decoder layer {index} is not softmax(q k^T) v: the kernel's output differs by "
                f"{float((actual - expected).abs().max()):.3g}; relevance knows scaling, caps, windows and masks, but no sinks or biases"
            )


def _record(
    calls: list[LayerCall], attention: nn.Module, thread: int, forward: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any
) -> Any:
    if threading.get_ident() != thread:
        return forward(hidden_states, *args, **kwargs)
    with torch.no_grad():
        given = forward(hidden_states, *args, **kwargs)
    output = _states(given).detach().requires_grad_()
    calls.append(LayerCall(forward, attention, hidden_states, args, kwargs, output))
    return (output, *given[1:]) if isinstance(given, tuple) else output


def _states(output: Any) -> Tensor:
    """A layer's hidden states, which some layers return together with other values."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    given = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)
