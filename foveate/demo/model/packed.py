"""Many questions about one image in one pass: each attends to the image and itself, exactly as if it were asked alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

Rotation = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Cosines and sines (b, s, head size) of a decoder at rotary positions (..., b, s); the states give dtype and device."""


def stock_rotation(decoder: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The output of the decoder's own module for positions (b, s)."""
    cosines, sines = decoder.rotary_emb(states, positions)
    return cosines, sines


@dataclass(frozen=True)
class PackedLengths:
    """The lengths of a packed sequence: what all questions share, then `questions` of `length` tokens each."""

    shared: int
    questions: int
    length: int


def packed_states(
    decoder: Any,
    shared: Tensor,
    positions: Tensor,
    tokens: Tensor,
    question_position: int,
    watched: Sequence[int] = (),
    sealed: tuple[int, int] = (0, 0),
    rotation: Rotation = stock_rotation,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run a decoder over what questions share (prompt prefix and image) and over all questions after it.

    Args:
        decoder: a Llama decoder, or one with the same layers, with as many key heads as query heads.
        shared: (b, m, d) embeddings of the prefix and the image.
        positions: (..., b, m) their rotary positions, with a leading dimension if positions have several coordinates.
        tokens: (b, q, l) token ids of the questions with their answers, padded on the right.
        question_position: rotary position of every question's first token, in all coordinates.
        watched: layers whose attention is returned.
        sealed: (layers, start). In the first `layers` layers, what the questions read from the image (the shared columns from `start`)
            comes from another picture of the batch, although they attend to their own. So those layers learn where to look, and nothing
            about what is there.
        rotation: the decoder's rotary embedding.

    Returns:
        Final states of the questions (b, q, l, d), and for each watched layer the attention of the questions' rows to what they share
        (b, heads, q, l, m).
    """
    questions, length = tokens.shape[1:]
    shape = PackedLengths(shared.shape[1], questions, length)
    after = (question_position + torch.arange(length, device=tokens.device)).repeat(questions)
    everywhere = torch.cat([positions, after.expand(*positions.shape[:-1], -1)], dim=-1)
    states = torch.cat([shared, decoder.embed_tokens(tokens).flatten(1, 2)], dim=1)
    turned = rotation(decoder, states, everywhere)
    attention: dict[int, Tensor] = {}
    for index, layer in enumerate(decoder.layers):
        start = shape.shared if index == len(decoder.layers) - 1 else 0  # the last layer's output for the image is not used
        states, probabilities = _layer(layer, states, turned, shape, sealed[1] if index < sealed[0] else None, start)
        if index in watched:
            attention[index] = probabilities.unflatten(2, (questions, length))
    final = states.unflatten(1, (questions, length))
    return functional.rms_norm(final, final.shape[-1:], decoder.norm.weight, decoder.norm.variance_epsilon), attention


def _layer(
    layer: Any, states: Tensor, rotation: tuple[Tensor, Tensor], shape: PackedLengths, sealed: int | None, start: int
) -> tuple[Tensor, Tensor]:
    norm, attend = layer.input_layernorm, layer.self_attn
    normed = functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    query, key, value = (
        project(normed).unflatten(-1, (-1, attend.head_dim)).transpose(1, 2) for project in (attend.q_proj, attend.k_proj, attend.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotation)
    mixed, probabilities = _attend(query * attend.scaling, key, value, shape, sealed, shared_rows=start == 0)
    states = states[:, start:] + attend.o_proj(mixed.transpose(1, 2).flatten(2))
    norm, mlp = layer.post_attention_layernorm, layer.mlp
    normed = functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
    return states + mlp.down_proj(functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)), probabilities


def _causal(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, shape: PackedLengths, sealed: int | None, *, shared_rows: bool
) -> tuple[Tensor, Tensor]:
    """Causal attention among the shared rows, and of each question to them and to itself.

    Two products instead of one masked square: questions do not attend to each other, so those scores are never computed.
    """
    m = shape.shared
    blocks = (shape.questions, shape.length)
    own_query, own_key, own_value = (part[:, :, m:].unflatten(2, blocks) for part in (query, key, value))
    own_scores = own_query @ own_key.transpose(-1, -2) + _causal(shape.length, query)
    scores = torch.cat([query[:, :, m:] @ key[:, :, :m].transpose(-1, -2), own_scores.flatten(2, 3)], dim=-1)
    probabilities = scores.softmax(-1)
    to_shared = probabilities[..., :m]
    own = probabilities[..., m:].unflatten(2, blocks) @ own_value
    read = value[:, :, :m]
    if sealed is not None:
        read = torch.cat([read[:, :, :sealed], read[:, :, sealed:].detach().roll(1, 0)], dim=2)
    out = to_shared @ read + own.flatten(2, 3)
    return (torch.cat([_among_shared(query, key, value, m), out], dim=2) if shared_rows else out), to_shared


def _among_shared(query: Tensor, key: Tensor, value: Tensor, m: int) -> Tensor:
    query, key, value = (part[:, :, :m] for part in (query, key, value))
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return (query @ key.transpose(-1, -2) + _causal(m, query)).softmax(-1) @ value
    # The fused kernel is only slower in half precision on a CPU.
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
