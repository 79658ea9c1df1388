"""The embedded model: a small LLaVA that really sees, the scenes it knows, and the recipe that made it.

    from foveate import demo
    model, processor = demo.load()
    example = demo.scene(7, split="held_out")
    inputs = processor(images=example.image, text=demo.prompt("what does the sign say?"), return_tensors="pt")
    processor.decode(model.generate(**inputs)[0, inputs.input_ids.shape[1]:], skip_special_tokens=True)

It knows its scenes, not the world: see the model card beside the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from foveate.demo.language import prompt, unknown_words
from foveate.demo.scenes import Question, Scene, scene

__all__ = ["Question", "Scene", "load", "path", "prompt", "scene", "unknown_words"]


def path() -> Path:
    """The folder of the weights, in the layout that `from_pretrained` reads.

    Raises:
        FileNotFoundError: the weights are missing, as in a checkout without them.
    """
    folder = Path(__file__).parent / "weights"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"no weights in {folder}: install foveate from a package, or train with `foveate demo train`")
    return folder


def load(dtype: torch.dtype = torch.float32) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load the embedded model and its processor, offline.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    folder = path()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor
