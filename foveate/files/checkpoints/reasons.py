"""Turn whatever transformers and the libraries below it raise about a checkpoint into one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foveate.errors import CheckpointError, FoveateError
from foveate.files.checkpoints.files import Checkpoint, read_json

__all__ = ["first_sentence", "refusing"]

_LONGEST = 300
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@contextmanager
def refusing(checkpoint: Checkpoint, what: str = "model") -> Iterator[None]:
    """Turn whatever is raised about missing, damaged or unsuitable files into one line.

    Args:
        checkpoint: the one being loaded.
        what: "model" or "processor".

    Raises:
        CheckpointError: says what is wrong. Foveate's other errors pass through, and so does a device that runs out of memory.
    """
    import torch

    try:
        yield
    except (FoveateError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CheckpointError(_reason(checkpoint, what, error)) from error


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error, with its type if the text alone would be unclear."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    text = text.rstrip(".:")[:_LONGEST]
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _reason(checkpoint: Checkpoint, what: str, error: Exception) -> str:
    name, text = checkpoint.name, str(error)
    if isinstance(error, MemoryError):
        return f"{name} does not fit in this machine's memory"
    if isinstance(error, ImportError) and "torchvision" in text.lower():
        return f"the processor of {name!r} needs torchvision, which is not installed: pip install torchvision, in the build for your torch"
    if "trust_remote_code" in text:
        return (
            f"the {what} of {name!r} needs code that it ships itself, which foveate never runs; take a checkpoint in transformers' own "
            f"format, often called -hf"
        )
    if "weights_only" in text or "WeightsUnpickler" in text:
        return f"the weights of {name!r} hold more than tensors and were not loaded, because that could run their code"
    damaged = _damaged(checkpoint) if isinstance(error, json.JSONDecodeError) else None
    if damaged is not None:
        return str(damaged)
    missing = _missing(checkpoint) if what == "processor" else None
    if missing is not None:
        return f"{name} has no {missing}, so no prompt can be made for it; copy or download it again, with all its files"
    ways = "pass demo, a folder or a Hugging Face id" if checkpoint.folder is None else "its files are damaged, or of another type"
    return f"cannot load the {what} {name!r}: {first_sentence(error)}; {ways}"


def _damaged(checkpoint: Checkpoint) -> CheckpointError | None:
    """What is wrong with the first of a folder's files that is not JSON."""
    for path in _files(checkpoint.folder, "*.json") if checkpoint.folder else ():
        try:
            read_json(path)
        except CheckpointError as error:
            return error
    return None


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder and of its subfolders, where some models keep their parts."""
    return sorted(path for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")) if path.is_file())


def _missing(checkpoint: Checkpoint) -> str | None:
    """Which part of a processor has no file in a folder."""
    folder = checkpoint.folder
    if folder is None:
        return None
    parts = {"tokenizer": _TOKENIZERS, "image processor": _IMAGE_PROCESSORS}
    for part, names in parts.items():
        if not any(_files(folder, name) for name in names):
            return f"{part} ({names[0]})"
    return None
