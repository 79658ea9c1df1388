"""Pictures of what happened to the visual tokens, and charts of results.

Start with `picture` (`kept`: which tokens stayed) and `explained` (`relevance`: what an answer rests on). Both lay tokens out with
`places`, `panes` and `cells`, and set the page with `page`. `charts`, `palette` and `information_loss` draw charts.
"""

from foveate.draw.explained import Word, relevance
from foveate.draw.picture import kept, read_report
from foveate.draw.places import Crop

__all__ = ["Crop", "Word", "kept", "read_report", "relevance"]
