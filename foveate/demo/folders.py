"""Where the weights of each shape of the embedded model lie, and those of models that are built on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["BUILT", "CACHE", "FOLDERS", "HOME", "built_folder"]

HOME = Path(__file__).parent
FOLDERS = {"llava": "weights", "qwen2-vl": "weights_qwen2_vl"}
"""The folder of each shape's weights, below `HOME`."""
BUILT = {"smollm2": "demo-smollm2"}
"""The folder, in the cache, of each model that is built from a package's weights and what foveate ships."""
CACHE = "FOVEATE_CACHE"
"""The environment variable that names the cache; without it, it is `foveate` in `XDG_CACHE_HOME`, or in `~/.cache`."""


def built_folder(name: str) -> Path:
    """The folder in the cache that a model is built in, which need not exist.

    Args:
        name: of the folder.
    """
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foveate" / name
