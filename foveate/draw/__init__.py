"""Pictures of what happened to the visual tokens."""

from foveate.draw.explained import Word, relevance
from foveate.draw.picture import kept, read_report
from foveate.draw.places import Crop

__all__ = ["Crop", "Word", "kept", "read_report", "relevance"]
