"""Read the weights of a VILA1.5 release: three folders, each with the files of one part of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig

from foveate.errors import InputError
from foveate.families.vila import internvit
from foveate.families.vila.configuration import VilaConfig, added_tokens
from foveate.files.checkpoints import check_loading_info, pretrained
from foveate.files.records import RecordSchema, read_tensors

__all__ = ["END_OF_TURN", "load", "read_weights"]

END_OF_TURN = ("<|eot_id|>", "<|im_end|>")
"""Tokens that end an answer in addition to the end of the sequence, if the vocabulary has them."""

_SINGLE, _INDEX = ("model.safetensors", "pytorch_model.bin"), (".safetensors.index.json", ".bin.index.json")
_COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Buffers that older versions of transformers saved and current ones compute."""


def load(kind: type, from_pretrained: Callable[..., Any], folder: Any, config: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Load a model from a release's folder.

    Args:
        kind: its class.
        from_pretrained: transformers' own function that makes a model from a configuration and a state dict.
        folder: with `llm/`, `vision_tower/` and `mm_projector/`.
        config: a configuration to use instead of the folder's, or `None`.
        args: further positional arguments for `from_pretrained`.
        options: further keyword arguments for `from_pretrained`.

    Raises:
        InputError: weight files are missing, damaged, or do not fit the configuration.
    """
    folder = Path(folder)
    config = config if isinstance(config, VilaConfig) else pretrained(VilaConfig, folder)
    asked = options.pop("output_loading_info", False)
    weights = read_weights(folder, config)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that the check below names what does not fit
    model, info = from_pretrained(None, *args, config=config, state_dict=weights, **options)
    check_loading_info(str(folder), model, info)
    model.config._name_or_path = str(folder)
    _end_of_answer(model, folder / "llm")
    return (model, info) if asked else model


def read_weights(folder: Path, config: VilaConfig) -> dict[str, Tensor]:
    """All weights of a release, by their names in `VilaForConditionalGeneration`.

    Args:
        folder: the release.
        config: its configuration. Embedding and head are padded with rows of zeros to the size of its vocabulary.

    Raises:
        InputError: a file is missing, damaged, or holds more than tensors.
    """
    weights: dict[str, Tensor] = {}
    vocabulary, tower = config.text_config.vocab_size, config.vision_config.model_type
    for name, tensor in _tensors(folder / "llm"):
        if name in ("lm_head.weight", "model.embed_tokens.weight"):
            tensor = F.pad(tensor, (0, 0, 0, vocabulary - tensor.shape[0]))
        weights[name if name.startswith("lm_head.") else f"model.language_model.{name.removeprefix('model.')}"] = tensor
    for name, tensor in _tensors(folder / "vision_tower"):
        parts = internvit.weights(name, tensor) if tower == internvit.MODEL_TYPE else [(name.removeprefix("vision_model."), tensor)]
        weights |= {f"model.vision_tower.{own}": part for own, part in parts}
    for name, tensor in _tensors(folder / "mm_projector"):
        weights[f"model.multi_modal_projector.{name}"] = tensor
    return weights


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in _files(folder):
        for name, tensor in _read(file).items():
            if not name.endswith(_COMPUTED):
                yield name, tensor


@dataclass(frozen=True)
class _ShardIndex:
    weight_map: dict[str, str]


_INDEX_SCHEMA: RecordSchema[_ShardIndex] = RecordSchema("an index of shards", _ShardIndex)


def _files(folder: Path) -> list[Path]:
    """The weight files of one part; safetensors if there are both kinds."""
    for single, index in zip(_SINGLE, _INDEX, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        listed = folder / (single.rpartition(".")[0] + index)
        if listed.is_file():
            names = sorted(set(_INDEX_SCHEMA.read(listed).value.weight_map.values()))
            # an index is untrusted data: it may not lead out of its folder
            missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
            if missing:
                raise InputError(f"{listed} names {len(missing)} file(s) that are not in its folder, such as {missing[0]}; copy them there")
            return [folder / name for name in names]
    raise InputError(f"{folder} has no weights: expected {_SINGLE[0]} or {_SINGLE[1]}, whole or in shards with their index")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise InputError(f"{file} is damaged or cut off ({error}); copy it again") from error
    found = read_tensors(file, mmap=True)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"{file} holds something other than tensors by name; copy it again")
    return found


def _end_of_answer(model: Any, folder: Path) -> None:
    """Generation settings: the language model's own, and the end-of-turn tokens of its prompt format."""
    settings = GenerationConfig.from_model_config(model.config)
    if (folder / "generation_config.json").is_file():
        settings = pretrained(GenerationConfig, folder)
    text = model.config.text_config
    known = settings.eos_token_id if settings.eos_token_id is not None else text.eos_token_id
    ends = [] if known is None else list(known) if isinstance(known, list) else [known]
    added = added_tokens(folder)
    settings.eos_token_id = [*ends, *(added[token] for token in END_OF_TURN if token in added and added[token] not in ends)] or None
    settings.pad_token_id = next((number for number in (settings.pad_token_id, text.pad_token_id, *ends) if number is not None), None)
    model.generation_config = settings
