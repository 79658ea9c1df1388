"""Loading models and processors: the one place that reads checkpoints, and that refuses those that would be silently wrong.

Start with `loader`; `files` finds the files, `sizes` and `finite` check them, and `reasons` turns errors into one line.
"""

from foveate.files.checkpoints.files import Checkpoint, find_checkpoint
from foveate.files.checkpoints.loader import check_loading_info, load_config, load_folder, load_processor, load_weights, pretrained

__all__ = [
    "Checkpoint",
    "check_loading_info",
    "find_checkpoint",
    "load_config",
    "load_folder",
    "load_processor",
    "load_weights",
    "pretrained",
]
