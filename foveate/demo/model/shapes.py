"""The shapes of the embedded model, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.demo.folders import BUILT, FOLDERS, HOME, built_folder
from foveate.demo.model.architecture import EmbeddedLlava
from foveate.demo.model.dynamic import EmbeddedQwen2VL
from foveate.demo.model.processing import DynamicProcessor
from foveate.demo.model.shape import EmbeddedShape, kind_of
from foveate.files.checkpoints import pretrained
from foveate.files.checkpoints.pillow import on_pillow

EMBEDDED_SHAPES: dict[str, EmbeddedShape] = {shape.name: shape for shape in (EmbeddedLlava(), EmbeddedQwen2VL())}


def own_processor(folder: Path) -> type[DynamicProcessor] | None:
    """The class of a folder's processor if transformers' `AutoProcessor` does not know it, otherwise `None`."""
    settings = folder / "processor_config.json"
    # Read as text: the loaders report a damaged file.
    own = settings.is_file() and f'"processor_class": "{DynamicProcessor.__name__}"' in settings.read_text(errors="replace")
    return DynamicProcessor if own else None


def on_its_library(processor: Any, folder: Path) -> Any:
    """Make an embedded model's processor use the image library of its training; any other processor is returned unchanged."""
    if isinstance(processor, DynamicProcessor):
        return on_pillow(processor, Qwen2VLImageProcessorPil)
    own = (HOME / FOLDERS[EmbeddedLlava.name], *map(built_folder, BUILT.values()))
    return on_pillow(processor, CLIPImageProcessorPil) if folder in own else processor


def processor_of(shape: str, folder: Path) -> Any:
    """The processor of an embedded model.

    Args:
        shape: one of `FOLDERS` or `BUILT`.
        folder: of its weights.
    """
    if shape in EMBEDDED_SHAPES:
        return EMBEDDED_SHAPES[shape].processor(folder)
    return on_pillow(pretrained(LlavaProcessor, folder), CLIPImageProcessorPil)


def shape_of(model: Any) -> EmbeddedShape:
    """The shape of a model.

    Args:
        model: a model, or the folder of its weights.

    Raises:
        ValueError: the embedded model has no such shape.
    """
    kind = kind_of(model) if isinstance(model, Path) else model.config.model_type
    if kind.replace("_", "-") not in EMBEDDED_SHAPES:
        raise ValueError(f"the embedded model comes as {', '.join(EMBEDDED_SHAPES)}, not as a {kind!r} model")
    return EMBEDDED_SHAPES[kind.replace("_", "-")]
