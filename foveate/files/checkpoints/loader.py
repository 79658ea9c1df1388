"""The one loader: `from_pretrained` without code from the checkpoint, with one-line errors, and with no weight silently left random."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError
from foveate.files.checkpoints.files import CONFIG, GENERATION, Checkpoint, Weights, some
from foveate.files.checkpoints.reasons import first_sentence, refusing
from foveate.files.checkpoints.sizes import check_counts, check_image_tokens, check_picture_size, check_tensors, check_weights

__all__ = ["check_loading_info", "load_config", "load_folder", "load_processor", "load_weights", "pretrained"]

_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def pretrained(kind: Any, source: Any, *arguments: Any, **options: Any) -> Any:
    """`kind.from_pretrained`, which never runs code that comes with the weights, and never asks whether it may.

    Args:
        kind: a class of transformers, or one like them.
        source: a folder or an id.
        arguments: further positional arguments.
        options: further keyword arguments.
    """
    return kind.from_pretrained(source, *arguments, trust_remote_code=False, **options)


def load_config(checkpoint: Checkpoint) -> Any:
    """The configuration of a model.

    Raises:
        CheckpointError: it is missing, damaged, of a model type that transformers does not know, or needs code of its own.
    """
    from transformers import AutoConfig

    with refusing(checkpoint):
        written = checkpoint.config()
        check_counts(checkpoint, written)
        _refuse_unknown(checkpoint, written)
        return pretrained(AutoConfig, checkpoint.source)


def load_weights(checkpoint: Checkpoint, config: Any, dtype: Any = "auto", device: Any = "cpu") -> Any:
    """A vision-language model, ready to use: every weight comes from the checkpoint.

    Args:
        checkpoint: where its files are.
        config: its configuration, from `load_config`.
        dtype: of the weights in memory; "auto" for the dtype that they were saved in.
        device: where the model is placed.

    Raises:
        CheckpointError: weights are missing, unexpected, not finite, damaged, or do not match the configuration.
        OutOfMemoryError: torch's, if they do not fit on the device.
    """
    from transformers import AutoModelForImageTextToText

    with refusing(checkpoint):
        check_image_tokens(checkpoint, config)
        _check_generation(checkpoint)
        _check_size(checkpoint, config)
        # so that the check below names what does not fit
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = pretrained(AutoModelForImageTextToText, checkpoint.source, dtype=dtype, **options)
        check_loading_info(checkpoint.name, model, info)
    model = model.eval().to(device)
    _check_finite(checkpoint.name, model)
    return model


def load_folder(folder: Path, dtype: Any = "auto", device: Any = "cpu") -> Any:
    """A vision-language model from a folder; see `load_weights`.

    Raises:
        CheckpointError: see `load_config` and `load_weights`.
    """
    checkpoint = Checkpoint(str(folder), str(folder))
    return load_weights(checkpoint, load_config(checkpoint), dtype, device)


def load_processor(checkpoint: Checkpoint, kind: Any = None) -> Any:
    """The processor of a model.

    Args:
        checkpoint: where its files are.
        kind: its class, if transformers does not know it.

    Raises:
        CheckpointError: files are missing or damaged, or it does not process pictures and text together.
    """
    from transformers import AutoProcessor

    with refusing(checkpoint, "processor"):
        for name in _PROCESSORS:
            check_picture_size(checkpoint, name, checkpoint.json(name) or {})
        processor = pretrained(kind or AutoProcessor, checkpoint.source)
        missing = [part for part in ("tokenizer", "image_processor") if getattr(processor, part, None) is None]
        if missing:
            raise CheckpointError(
                f"{checkpoint.name} has no processor for pictures and text together: a {type(processor).__name__} has no "
                f"{' and no '.join(missing)}; foveate needs a vision-language model with the files of its processor"
            )
        return processor


def check_loading_info(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model with weights that are not from its checkpoint, or a checkpoint with weights that the model has no place for.

    What transformers omits on purpose (tied weights, computed buffers, parts that a class says it ignores) is not in `info`.

    Args:
        name: of the checkpoint.
        model: as it was loaded.
        info: what `from_pretrained` returns with `output_loading_info=True`.

    Raises:
        CheckpointError: some weights do not fit; it names the first few tensors and how many there are.
    """
    missing, left = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if getattr(model, "hf_quantizer", None) is not None:
        modules = dict(model.named_modules())
        left = [tensor for tensor in left if tensor.rpartition(".")[0] not in modules]  # scales and the like of a known weight
    other = [f"{tensor} {_shape(found)} for {_shape(wanted)}" for tensor, found, wanted in sorted(info["mismatched_keys"])]
    faults = []
    if missing:
        faults.append(f"missing {len(missing)} of {len(model.state_dict())} tensors ({some(missing)})")
    if left:
        faults.append(f"left over {len(left)}, for which a {type(model).__name__} has no place ({some(left)})")
    if other:
        faults.append(f"of another shape {len(other)} ({some(other)})")
    if faults:
        wrong = "parts of the model would be random" if missing or other else "the model is not the one that was saved"
        raise CheckpointError(
            f"the weights of {name} do not fit its configuration, so {wrong}: {'; '.join(faults)}; get both from one place"
        )


def _refuse_unknown(checkpoint: Checkpoint, written: Mapping[str, Any]) -> None:
    """Refuse a model type that transformers does not know, with a helpful reason."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if written["model_type"] in CONFIG_MAPPING:
        return
    checkpoint.refuse_code(written)
    raise CheckpointError(
        f"{checkpoint.name} is a {written['model_type']!r} model ({CONFIG}), which transformers {transformers.__version__} does not know; "
        f"correct it, or update transformers"
    )


def _check_generation(checkpoint: Checkpoint) -> None:
    """Refuse generation settings that transformers would ignore, or fail on during generation."""
    settings = checkpoint.json(GENERATION) or {}
    for name in _TOKENS:
        value = settings.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
            raise CheckpointError(f"{checkpoint.name}: {GENERATION} has {name}={value!r}, which is not a token id; correct or remove it")


def _check_size(checkpoint: Checkpoint, config: Any) -> None:
    """Compare the configuration with the weight files before a model is built, and with its skeleton before memory is allocated."""
    import torch
    from transformers import AutoModelForImageTextToText

    kind = _class_of(config)
    weights = sum((part.weights() for part in _parts(checkpoint, kind)), Weights(0, 0))
    check_tensors(checkpoint, config.to_dict(), weights)
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            skeleton = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # model classes raise anything when settings describe no valid model
        raise CheckpointError(
            f"{checkpoint.name}: {CONFIG} describes no {kind.__name__} that can be built ({first_sentence(error)}); it is damaged"
        ) from error
    check_weights(checkpoint, skeleton, weights, quantised=getattr(config, "quantization_config", None) is not None)


def _check_finite(name: str, model: Any) -> None:
    """Refuse weights that are NaN or infinite. Reads each once: milliseconds on a GPU; on a CPU, as long as copying them."""
    bad = [weight for weight, values in model.named_parameters() if not _finite(values.detach())]
    if bad:
        raise CheckpointError(
            f"the weights of {name} are damaged: values that are not finite in {len(bad)} tensors ({some(bad)}); copy or download it again"
        )


def _finite(values: Any) -> bool:
    import torch

    if values.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64) or values.is_meta or not values.numel():
        return True
    # one pass at memory bandwidth; isfinite takes thirty times as long
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _class_of(config: Any) -> Any:
    """The model class of a configuration.

    Raises:
        CheckpointError: it is not a vision-language model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        found = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    except KeyError as error:
        raise CheckpointError(f"a {config.model_type!r} model is not a vision-language model, which foveate needs") from error
    return found[0] if isinstance(found, tuple | list) else found


def _parts(checkpoint: Checkpoint, kind: Any) -> Iterable[Checkpoint]:
    """The folders that hold the weights: one, unless the class reads a layout of its own."""
    parts = getattr(kind, "weight_folders", lambda folder: (folder,))(checkpoint.source)
    return [Checkpoint(checkpoint.name if part == checkpoint.source else str(part), str(part)) for part in parts]


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number"
