"""Image processors that work with Pillow, whatever else is installed."""

from __future__ import annotations

from typing import Any

__all__ = ["on_pillow"]


def on_pillow(processor: Any, kind: Any) -> Any:
    """A processor whose pictures are resized by Pillow, with the settings that it has.

    transformers saves the name of an image processor without the library that it works with, and takes torchvision where that is
    installed when it loads it again. Both resize a little differently, so that a model would see other pixels than it was given before.

    Args:
        processor: a loaded processor; it is changed in place.
        kind: the class of its image processor that works with Pillow, such as `SiglipImageProcessorPil`.

    Returns:
        `processor`. An image processor of quite another kind is left as it is.
    """
    current = processor.image_processor
    if f"{type(current).__name__}Pil" == kind.__name__:
        processor.image_processor = kind.from_dict(current.to_dict())
    return processor
