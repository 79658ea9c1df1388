"""Which model labels and compressors belong to: `ModelIdentity`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from foveate.files.records import Count, RecordSchema

__all__ = ["ModelIdentity", "identity", "weights_digest"]

_EXACT = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_SMALLEST = 2.0**-14
"""The smallest magnitude that float16 holds with all digits of bfloat16; weights below it count as zero."""
_NOT_THESE = frozenset({"v_proj", "o_proj", "out_proj", "wv", "wo", "dense"})


@dataclass(frozen=True)
class ModelIdentity:
    """Distinguishes one model from another, in any precision and on any device. JSON-able.

    Attributes:
        model_type: `config.model_type` of the whole model.
        decoder_type: that of its text decoder.
        hidden: width of the decoder's states.
        layers: decoder layers.
        heads: attention heads of a decoder layer.
        vocabulary: entries of the embedding table's configuration.
        weights: hash of the weights that make queries and keys in decoder layer 0, rounded to bfloat16; `None` where they
            are quantised or not in memory. Adapters on top do not count.
    """

    model_type: str
    decoder_type: str
    hidden: Count
    layers: Count
    heads: Count
    vocabulary: Count
    weights: str | None

    def differences(self, other: ModelIdentity) -> list[str]:
        """Where two identities differ, one entry per field, for messages. Unknown weights match any."""
        found = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs and not (field.name == "weights" and None in (mine, theirs)):
                found.append(f"{field.name.replace('_', ' ')} {mine} instead of {theirs}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelIdentity:
        """Read what `to_dict` gave; fields that are not known are passed over.

        Raises:
            RecordError: a field is missing, or of another type.
        """
        return _FORM.of(dict(data), "this dictionary").value


_FORM: RecordSchema[ModelIdentity] = RecordSchema("the identity of a model", ModelIdentity)


def identity(model: nn.Module) -> ModelIdentity:
    """The identity of a loaded model of a known family.

    Raises:
        UnsupportedModelError: no family covers this model.
    """
    from foveate.families import family_of  # a list of methods, which reads no model, need not wait for transformers

    family = family_of(model)
    whole: Any = model.config
    config: Any = family.decoder(model).config
    attention = family.attention(family.layers(model)[0])
    return ModelIdentity(
        model_type=whole.model_type,
        decoder_type=config.model_type,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        weights=weights_digest(_projections(attention)),
    )


def weights_digest(weights: Iterable[Tensor]) -> str | None:
    """The hash that `ModelIdentity.weights` holds.

    Args:
        weights: of the projections to queries and keys in decoder layer 0, in the order of the module.
    """
    digest, count = hashlib.sha256(), 0
    for weight in weights:
        if weight.dtype not in _EXACT or weight.is_meta:
            return None
        rounded = weight.detach().to(torch.bfloat16).cpu()
        rounded = rounded.masked_fill(rounded.abs() < _SMALLEST, 0)
        digest.update(str(tuple(rounded.shape)).encode())
        digest.update(rounded.contiguous().view(torch.int16).numpy().tobytes())
        count += 1
    return digest.hexdigest()[:32] if count else None


def _projections(attention: nn.Module) -> Iterator[Tensor]:
    """Weights of the projections to queries and keys, however many there are: all that do not make values or the output."""
    for name, weight in attention.named_parameters():
        parts = name.split(".")
        if parts[-1] == "weight" and not _NOT_THESE.intersection(parts) and not any(part.startswith("lora") for part in parts):
            yield weight
