"""The embedded model: a small LLaVA that really sees, and the scenes that it knows.

    from foveate import demo
    model, processor = demo.load()
    example = demo.scene(7, split="held_out")
    inputs = processor(images=example.image, text=demo.prompt("what does the sign say?"), return_tensors="pt")
    processor.decode(model.generate(**inputs)[0, inputs.input_ids.shape[1]:], skip_special_tokens=True)

It knows its scenes, not the world: see the model card next to the weights. `demo.load(shape="qwen2-vl")` returns its variant with
dynamic resolution, which is used in the same way. `demo.load(shape="smollm2")` returns one with a pretrained decoder, which
`foveate demo build` assembles once; its prompts are those of its processor's chat template.

Start with `scenes/compose.py` (what a scene is) and `model/architecture.py` (the model). `foveate.recipe` trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from foveate.demo.folders import BUILT, FOLDERS, HOME, built_folder
from foveate.demo.model.language import prompt, unknown_words
from foveate.demo.scenes import Question, Scene, scene

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, Qwen2VLForConditionalGeneration

    from foveate.demo.model.processing import DynamicProcessor

__all__ = ["BUILT", "FOLDERS", "HOME", "Question", "Scene", "load", "path", "prompt", "scene", "unknown_words"]


def path(shape: str = "llava") -> Path:
    """The folder of the weights, in the layout that `from_pretrained` reads.

    Args:
        shape: one of `FOLDERS` or `BUILT`.

    Raises:
        ValueError: there is no such shape.
        FileNotFoundError: the weights are missing, as in a checkout without them, or the model is not built yet.
    """
    if shape in BUILT:
        built = built_folder(BUILT[shape])
        if not (built / "model.safetensors").is_file():
            raise FileNotFoundError(f"no model in {built}: build it once with `foveate demo build --decoder {shape}`")
        return built
    if shape not in FOLDERS:
        raise ValueError(f"the embedded model comes as {', '.join((*FOLDERS, *BUILT))}, not as {shape!r}")
    folder = HOME / FOLDERS[shape]
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"no weights in {folder}: install foveate from a package, or train with `foveate demo train`")
    return folder


@overload
def load(dtype: torch.dtype = ..., shape: Literal["llava"] = ...) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]: ...


@overload
def load(dtype: torch.dtype = ..., *, shape: Literal["qwen2-vl"]) -> tuple[Qwen2VLForConditionalGeneration, DynamicProcessor]: ...


@overload
def load(dtype: torch.dtype = ..., *, shape: str) -> tuple[Any, Any]: ...


def load(dtype: torch.dtype = torch.float32, shape: str = "llava") -> tuple[Any, Any]:
    """Load the embedded model and its processor, offline.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.
        shape: one of `FOLDERS` or `BUILT`.

    Raises:
        ValueError: there is no such shape.
        FileNotFoundError: the weights are missing, or the model is not built yet.
        CheckpointError: they are damaged.
    """
    from foveate.demo.model.shapes import processor_of
    from foveate.files.checkpoints import load_folder

    folder = path(shape)
    return load_folder(folder, dtype), processor_of(shape, folder)
