"""Pictures of what happened to the visual tokens."""

from foveate.draw.explained import Word, relevance
from foveate.draw.geometry import Crop, processor_crop
from foveate.draw.picture import kept, read_report

__all__ = ["Crop", "Word", "kept", "processor_crop", "read_report", "relevance"]
