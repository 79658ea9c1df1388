"""Image processors that use Pillow, whatever else is installed."""

from __future__ import annotations

from typing import Any

__all__ = ["on_pillow"]


def on_pillow(processor: Any, kind: Any) -> Any:
    """Make a processor resize pictures with Pillow, with unchanged settings.

    transformers saves the name of an image processor without its library, and on loading takes torchvision if that is installed. The two
    resize slightly differently, so the model would see other pixels than it was trained on.

    Args:
        processor: a loaded processor; it is changed in place.
        kind: the Pillow class of its image processor, such as `SiglipImageProcessorPil`.

    Returns:
        `processor`. An image processor of an unrelated kind is left unchanged.
    """
    current = processor.image_processor
    if f"{type(current).__name__}Pil" == kind.__name__:
        processor.image_processor = kind.from_dict(current.to_dict())
    return processor
