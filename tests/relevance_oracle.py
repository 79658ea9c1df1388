"""The slow truth of relevance: eager attention, every map and its gradient stored, and the recursion as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def maps_with_gradients(model: Any, inputs: dict[str, Any], position: int, token: int, target: str) -> list[tuple[Tensor, Tensor]]:
    """Per layer attention (heads, n, n) and the gradient of the target with respect to it, of a prompt in a batch of one."""
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, args, output: output.detach().requires_grad_())
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.enable_grad():
            output = model(**inputs, use_cache=False, output_attentions=True)
            value = output.logits[0, position].double()
            value = value.log_softmax(-1)[token] if target == "log_probability" else value[token]
            gradients = torch.autograd.grad(value, output.attentions, allow_unused=True)
    finally:
        model.set_attn_implementation(implementation)
        hook.remove()
    pairs = zip(output.attentions, gradients, strict=True)
    return [(a[0].detach(), torch.zeros_like(a[0]) if g is None else g[0]) for a, g in pairs]


def recursion(pairs: Sequence[tuple[Tensor, Tensor]], gradients: bool) -> Tensor:
    """R = R + E_h[(A * dy/dA)^+] R over all layers, (n, n)."""
    length = pairs[0][0].shape[-1]
    relevance = torch.eye(length, dtype=pairs[0][0].dtype)
    for attention, gradient in pairs:
        relevance = relevance + ((attention * gradient).clamp(min=0) if gradients else attention).mean(0) @ relevance
    return relevance


def oracle(
    model: Any, inputs: dict[str, Any], columns: Sequence[Tensor], answer: Sequence[int], *, target: str = "logit", gradients: bool = True
) -> list[Tensor]:
    """Per image (a, n): relevance of its columns for each token of the answer.

    Args:
        model: on the CPU.
        inputs: of one prompt without padding.
        columns: of each image's tokens.
        answer: token ids.
        target: "logit" or "log_probability".
        gradients: off for attention alone.
    """
    length = inputs["input_ids"].shape[1]
    forced = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == inputs["input_ids"].shape:
            behind = torch.tensor([list(answer)]) if name == "input_ids" else torch.full((1, len(answer)), int(name == "attention_mask"))
            forced[name] = torch.cat([value, behind.to(value.dtype)], 1)
    rows = []
    for place, token in enumerate(answer):
        pairs = maps_with_gradients(model, forced, length + place - 1, token, target)
        rows.append(recursion(pairs, gradients)[length + place - 1])
    return [torch.stack([row[own] for row in rows]) for own in columns]


def closeness(found: Tensor, expected: Tensor) -> float:
    """Largest error of any answer token's relevance, as a share of its largest value."""
    difference = (found.double() - expected.double()).abs().amax(1)
    return float((difference / expected.double().abs().amax(1)).max())
