"""Refuse sizes that no model can have, by the configuration and the weight files alone, before anything is built."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from foveate.errors import CheckpointError
from foveate.files.checkpoints.files import CONFIG, Checkpoint, Weights

__all__ = ["check_counts", "check_image_tokens", "check_picture_size", "check_tensors", "check_weights"]

MAX_COUNT = 10_000
"""Most layers, or other repeated parts, of a model; published models have up to some hundred layers and experts each."""

LONGEST_SIDE = 16_384
"""Longest side in pixels of the pictures that a processor produces; published ones produce up to some thousand."""

_COUNTED = ("layers", "layer_num", "n_layer", "depth", "depths", "blocks", "experts", "num_labels")
"""Suffixes of settings that say how often something is built, or listed, in a loop."""

_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "depth")
_SLACK = 2**24
"""Elements that need not be in any file, such as tables of positions that a model computes."""

_IMAGE_TOKENS = ("image_token_id", "image_token_index")


def check_counts(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Refuse counts with which even reading the configuration would never finish.

    Args:
        checkpoint: for the message.
        config: as it was written.

    Raises:
        CheckpointError: a count is above `MAX_COUNT`, or negative.
    """
    for setting, value in _numbers(config):
        last = setting.rpartition(".")[2]
        if (last.endswith(_COUNTED) and value > MAX_COUNT) or (last in _LAYERS and value < 0):
            raise CheckpointError(
                f"{checkpoint.name}: {CONFIG} has {setting}={value}, and no model has that many (0 to {MAX_COUNT}); it is damaged"
            )


def check_tensors(checkpoint: Checkpoint, config: Mapping[str, Any], weights: Weights) -> None:
    """Refuse more layers than there are tensors, because each has at least one.

    Raises:
        CheckpointError: there are more.
    """
    layers = [(setting, value) for setting, value in _numbers(config) if setting.rpartition(".")[2] in _LAYERS]
    for setting, value in layers:
        if weights.tensors is not None and value > weights.tensors:
            raise CheckpointError(
                f"{checkpoint.name}: {CONFIG} has {setting}={value}, but the weights are {weights.tensors} tensors, fewer than one for "
                f"each layer; the two do not belong together"
            )


def check_weights(checkpoint: Checkpoint, skeleton: Any, weights: Weights, *, quantised: bool) -> None:
    """Refuse a model that is far larger than its weight files, before memory is allocated for it.

    Args:
        checkpoint: for the message.
        skeleton: the model that the configuration describes, on the "meta" device.
        weights: the content of the files.
        quantised: whether an element may take less than a byte.

    Raises:
        CheckpointError: it is.
    """
    if weights.bytes is None:
        return
    needed = sum(tensor.numel() for tensor in itertools.chain(skeleton.parameters(), skeleton.buffers()))
    most = weights.bytes * (8 if quantised else 1) + _SLACK
    if needed > most:
        raise CheckpointError(
            f"{checkpoint.name}: {CONFIG} describes a model of {needed:.3g} numbers, and the files of its weights have {weights.bytes:.3g} "
            f"bytes; the two do not belong together"
        )


def check_image_tokens(checkpoint: Checkpoint, config: Any) -> None:
    """Refuse an image placeholder that is not in the vocabulary.

    Raises:
        CheckpointError: its id is negative, or beyond the vocabulary.
    """
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    for setting in _IMAGE_TOKENS:
        value = getattr(config, setting, None)
        if isinstance(value, int) and isinstance(vocabulary, int) and not 0 <= value < vocabulary:
            raise CheckpointError(
                f"{checkpoint.name}: {CONFIG} has {setting}={value}, but the vocabulary ends at {vocabulary - 1}; the token that stands "
                f"for images must be in it"
            )


def check_picture_size(checkpoint: Checkpoint, file: str, settings: Mapping[str, Any]) -> None:
    """Refuse a processor that produces pictures too large for any machine.

    Args:
        checkpoint: for the message.
        file: the file of the settings, for the message.
        settings: those of the processor.

    Raises:
        CheckpointError: a height or width is above `LONGEST_SIDE`, or below 1.
    """
    for setting, value in _numbers(settings):
        if setting.rpartition(".")[2] in ("height", "width") and not 1 <= value <= LONGEST_SIDE:
            raise CheckpointError(
                f"{checkpoint.name}: {file} has {setting}={value} pixels, and there may be 1 to {LONGEST_SIDE}; it is damaged"
            )


def _numbers(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number in a configuration, including those in lists, with its path."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}.")
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, int) and not isinstance(entry, bool):
                yield f"{before}{name}", entry
