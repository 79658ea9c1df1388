"""Prefill, decode and method time of a compressed model, beside the full model and beside the ideal.

All variants take turns within each round, and ratios are formed within a round, so that a machine whose speed drifts does
not favour one of them. The *ideal* is the same decoder fed a sequence that short from the same layer on, with no method at
all: what compression would cost if choosing were free.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from foveate.cache import cache_bytes
from foveate.clock import seconds
from foveate.compression import compress
from foveate.families import Encoding, family_of
from foveate.method import Method

__all__ = ["Figure", "Measurement", "ideal", "llava_shaped", "measure", "prompt_for"]


@dataclass(frozen=True)
class Figure:
    """A median over rounds with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Median and quartiles of one value per round."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


@dataclass(frozen=True)
class Measurement:
    """One variant. Times are seconds; ratios are to the full model (or the ideal) in the same round.

    Attributes:
        tokens: visual tokens that remain, of all images.
        prefill: seconds of the decoder's prefill, vision tower excluded.
        prefill_ratio: to the full model's prefill.
        over_ideal: prefill over the ideal's, minus one; `None` for the full model and the ideal itself.
        method_share: method time as a share of the full model's prefill.
        decode: seconds per new token.
        decode_ratio: to the full model's.
        cache_bytes: key/value bytes after the prefill.
    """

    name: str
    tokens: int
    prefill: Figure
    prefill_ratio: Figure
    over_ideal: Figure | None
    method_share: Figure | None
    decode: Figure
    decode_ratio: Figure
    cache_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def llava_shaped(hidden: int = 1024, layers: int = 16, *, heads: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A LLaVA-1.5 with random weights: 336 px, 576 visual tokens, a small tower, and a decoder of the given shape."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
        ),
        text_config=LlamaConfig(
            hidden_size=hidden,
            intermediate_size=hidden * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            vocab_size=32064,
            max_position_embeddings=4096,
        ),
        image_token_id=32000,
    )
    return LlavaForConditionalGeneration(config).to(dtype).eval()


def prompt_for(model: nn.Module, before: int, after: int) -> dict[str, Tensor]:
    """Random text around one random image: `before` text tokens, the image, `after` text tokens."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(3, min(config.text_config.vocab_size, config.image_token_id), (before + after,), generator=generator)
    vision = config.vision_config
    visual = torch.full(((vision.image_size // vision.patch_size) ** 2,), config.image_token_id)
    ids = torch.cat([text[:before], visual, text[before:]])[None]
    pixels = torch.rand(1, 3, vision.image_size, vision.image_size, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@contextlib.contextmanager
def ideal(model: nn.Module, columns: Tensor, layer: int) -> Iterator[None]:
    """Feed decoder layers from `layer` on only the given columns (k,) of a one-row prefill; nothing is chosen or kept.

    The decoder's caches are right for timing, not for answers.
    """
    layers = family_of(model).layers(model)
    short: dict[str, Any] = {}

    def cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args[0].shape[1] == 1:
            return args, kwargs
        rotary = kwargs["position_embeddings"]
        short["position_embeddings"] = tuple(part.index_select(-2, columns) for part in rotary)
        short["position_ids"] = torch.arange(columns.numel(), device=columns.device)[None]
        return (args[0].index_select(1, columns),), {**kwargs, **short}

    def follow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs if args[0].shape[1] == 1 else {**kwargs, **short}

    hooks = [layers[layer].register_forward_pre_hook(cut, with_kwargs=True)]
    hooks += [later.register_forward_pre_hook(follow, with_kwargs=True) for later in layers[layer + 1 :]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    methods: Sequence[Method],
    *,
    rounds: int = 10,
    new_tokens: int = 8,
    progress: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Time the full model, the ideal and every method in turn, `rounds` times after one round that does not count.

    Args:
        model: a loaded model of a known family.
        inputs: one row, with its image.
        methods: each at its own layer; an ideal is measured for each distinct (layer, tokens).
        rounds: counted rounds.
        new_tokens: decoding steps timed after each prefill.
        progress: called after every single run.

    Returns:
        the full model, then for each method its ideal (once) and itself.
    """
    with torch.no_grad():
        features = model.base_model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)  # type: ignore[union-attr,operator]
    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    variants = _variants(model, {**text, "mm_encoder_outputs": {"image": features}}, methods)
    runs: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for turn in range(rounds + 1):
        for variant in variants[turn % len(variants) :] + variants[: turn % len(variants)]:
            result = variant.run(new_tokens)
            progress()
            if turn:
                runs[variant.name].append(result)
    return [_summary(variant, runs) for variant in variants]


@dataclass
class _Variant:
    name: str
    model: nn.Module
    inputs: Mapping[str, Any]
    around: Callable[[], Any]
    rival: str | None = None
    tokens: int = 0
    cache_bytes: int = 0

    def run(self, new_tokens: int) -> dict[str, float]:
        device = self.inputs["input_ids"].device
        with torch.no_grad(), self.around() as handle:
            start = seconds(device)
            out = self.model(**self.inputs, use_cache=True, logits_to_keep=1)
            prefill = seconds(device) - start
            method = getattr(getattr(handle, "report", None), "method_seconds", 0.0)
            cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
            self.cache_bytes = cache_bytes(cache)
            start = seconds(device)
            for step in range(new_tokens):
                # Explicit positions, so that the ideal's shorter cache does not change what is computed.
                at = torch.full((1, 1), self.inputs["input_ids"].shape[1] + step, device=device)
                out = self.model(input_ids=token, position_ids=at, past_key_values=cache, use_cache=True, logits_to_keep=1)
            decode = (seconds(device) - start) / max(new_tokens, 1)
        return {"prefill": prefill, "method": method, "decode": decode}


def _variants(model: nn.Module, inputs: Mapping[str, Any], methods: Sequence[Method]) -> list[_Variant]:
    family = family_of(model)
    lengths = tuple(map(len, inputs["mm_encoder_outputs"]["image"].pooler_output))
    image = family.images(model, inputs["input_ids"].cpu(), [Encoding("image", {}, lengths)])[0][0]
    columns = torch.arange(inputs["input_ids"].shape[1])
    total = image.columns.numel()
    variants = [_Variant("full", model, inputs, contextlib.nullcontext, tokens=total)]
    for method in methods:
        keep = method.budget(total, image.grid[0])
        spread = image.columns[torch.linspace(0, total - 1, keep).round().long()]
        chosen = torch.cat([columns[: image.columns[0]], spread, columns[image.columns[-1] + 1 :]]).to(inputs["input_ids"].device)
        rival = f"ideal {keep} from layer {method.layer}"
        if all(variant.name != rival for variant in variants):
            around = _bind(ideal, model, chosen, method.layer)
            variants.append(_Variant(rival, model, inputs, around, tokens=keep))
        variants.append(_Variant(repr(method), model, inputs, _bind(compress, model, method), rival, keep))
    return variants


def _bind(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: call(*args)


def _summary(variant: _Variant, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Measurement:
    mine, full = runs[variant.name], runs["full"]
    rival = runs[variant.rival] if variant.rival else None
    return Measurement(
        name=variant.name,
        tokens=variant.tokens,
        prefill=Figure.of([run["prefill"] for run in mine]),
        prefill_ratio=Figure.of([a["prefill"] / b["prefill"] for a, b in zip(mine, full, strict=True)]),
        over_ideal=Figure.of([a["prefill"] / b["prefill"] - 1 for a, b in zip(mine, rival, strict=True)]) if rival else None,
        method_share=Figure.of([a["method"] / b["prefill"] for a, b in zip(mine, full, strict=True)]) if rival else None,
        decode=Figure.of([run["decode"] for run in mine]),
        decode_ratio=Figure.of([a["decode"] / b["decode"] for a, b in zip(mine, full, strict=True)]),
        cache_bytes=variant.cache_bytes,
    )
