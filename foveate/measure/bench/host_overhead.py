"""What compression costs the host: prefills so small that nearly all of their time is spent in Python, with and without a method."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compression import compress
from foveate.engine.arguments import as_argument, cache_of
from foveate.measure.bench.prompts import random_prompt
from foveate.measure.bench.shapes import ModelShape, build, shapes
from foveate.method import Method

__all__ = ["HostOverhead", "host_model", "host_overhead"]

_SIZES = {
    "text_config": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128, "vocab_size": 32064},
    "vision_config": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 2},
}
_TOKENS = 6
"""Rows and columns of the image's tokens."""
_BEFORE, _AFTER = 12, 12
"""Tokens of text around it."""


@dataclass(frozen=True)
class HostOverhead:
    """Times of one method beside those of no compression, from the same rounds.

    All times are those that the thread was at work, so that other programs on the machine do not count.

    Attributes:
        method: as text.
        plain: median seconds of a prefill without a handle.
        compressed: median seconds of a prefill with one.
        ratio: median over rounds of compressed over plain.
        plain_step: median seconds of a decoding step after the plain prefill.
        compressed_step: median seconds of a decoding step on the cut cache.
        step_ratio: median over rounds of their ratio.
    """

    method: str
    plain: float
    compressed: float
    ratio: float
    plain_step: float
    compressed_step: float
    step_ratio: float


def host_model(layers: int = 32, *, device: torch.device | None = None) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of hidden size 64 with random weights, and a prompt of 60 tokens, 36 of them visual."""
    shape = _small(layers)
    model = build(shape, device=device or torch.device("cpu"), dtype=torch.float32)
    return model, random_prompt(model, shape.picture, before=_BEFORE, after=_AFTER)


def host_overhead(
    methods: Sequence[Callable[[int], Method]], *, layers: int = 32, rounds: int = 30, steps: int = 4, device: torch.device | None = None
) -> list[HostOverhead]:
    """Time prefills and decoding steps with each method and without any, in turn, with as little arithmetic as possible.

    Args:
        methods: each makes a method from the number of tokens that it is to keep: all but one.
        layers: of the decoder.
        rounds: of all ways of running, after two that do not count.
        steps: decoding steps in each.
        device: where to run; the CPU by default.

    Returns:
        one entry per method, in order.
    """
    model, inputs = host_model(layers, device=device)
    chosen = [make(_TOKENS**2 - 1) for make in methods]
    ways: list[Callable[[], AbstractContextManager[Any]]] = [nullcontext, *(_compressing(model, method) for method in chosen)]
    times: list[list[tuple[float, float]]] = [[] for _ in ways]
    for number in range(rounds + 2):
        for offset in range(len(ways)):
            which = (number + offset) % len(ways)
            with ways[which](), torch.no_grad():
                spent = _prefill_and_steps(model, inputs, steps)
            if number >= 2:
                times[which].append(spent)
    plain = times[0]
    return [_compared(str(method), plain, own) for method, own in zip(chosen, times[1:], strict=True)]


def _compressing(model: nn.Module, method: Method) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: compress(model, method)


def _compared(method: str, plain: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]) -> HostOverhead:
    def figures(which: int) -> tuple[float, float, float]:
        pairs = [(each[which], other[which]) for each, other in zip(plain, own, strict=True)]
        ratios = [compressed / full for full, compressed in pairs]
        return statistics.median(full for full, _ in pairs), statistics.median(c for _, c in pairs), statistics.median(ratios)

    return HostOverhead(method, *figures(0), *figures(1))


def _prefill_and_steps(model: nn.Module, inputs: dict[str, Tensor], steps: int) -> tuple[float, float]:
    device = inputs["input_ids"].device
    _wait(device)
    start = time.thread_time()
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    prefill = time.thread_time() - start
    mask = inputs["attention_mask"]
    token = inputs["input_ids"][:, -1:]
    cache = cache_of(output)
    _wait(device)
    start = time.thread_time()
    for _ in range(steps):
        mask = torch.cat([mask, mask[:, :1]], dim=1)
        model(input_ids=token, attention_mask=mask, **as_argument(cache), use_cache=True, logits_to_keep=1)
    return prefill, (time.thread_time() - start) / max(steps, 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _small(layers: int) -> ModelShape:
    """The first shape with square images, as small as can be."""
    shape = next(each for each in shapes().values() if each.picture.layout == "square")
    config = copy.deepcopy(dict(shape.config))
    for part, sizes in _SIZES.items():
        config[part] = {**config[part], **sizes}
    config["text_config"].pop("head_dim", None)
    config["text_config"]["num_hidden_layers"] = layers
    side = _TOKENS * config["vision_config"]["patch_size"]
    config["vision_config"]["image_size"] = side
    picture = replace(shape.picture, width=side, height=side)
    config |= {name: picture.tokens for name in ("image_seq_length",) if name in config}
    return replace(shape, config=config, picture=picture)
