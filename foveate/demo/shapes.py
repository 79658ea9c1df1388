"""The kinds of model that the recipe can train, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.demo import FOLDERS
from foveate.demo.architecture import Llava
from foveate.demo.dynamic import Dynamic
from foveate.demo.processing import DynamicProcessor
from foveate.demo.shape import Shape, kind_of

SHAPES: dict[str, Shape] = {shape.name: shape for shape in (Llava(), Dynamic())}


def own_processor(folder: Path) -> Any:
    """The processor of a folder, if transformers' `AutoProcessor` does not know it or would load another for what ships, else `None`."""
    settings = folder / "processor_config.json"
    # Read as text: a damaged file is for the loaders to complain of.
    own = settings.is_file() and f'"processor_class": "{DynamicProcessor.__name__}"' in settings.read_text(errors="replace")
    if own:
        return SHAPES[Dynamic.name].processor(folder)
    return SHAPES[Llava.name].processor(folder) if folder == Path(__file__).parent / FOLDERS[Llava.name] else None


def shape_of(model: Any) -> Shape:
    """The shape of a model.

    Args:
        model: a model, or the folder of its weights.

    Raises:
        ValueError: the recipe makes no such models.
    """
    kind = kind_of(model) if isinstance(model, Path) else model.config.model_type
    if kind.replace("_", "-") not in SHAPES:
        raise ValueError(f"the embedded model comes as {', '.join(SHAPES)}, not as a {kind!r} model")
    return SHAPES[kind.replace("_", "-")]
