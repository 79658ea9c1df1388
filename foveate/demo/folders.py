"""Where the weights of each shape of the embedded model lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FOLDERS", "HOME"]

HOME = Path(__file__).parent
FOLDERS = {"llava": "weights", "qwen2-vl": "weights_qwen2_vl"}
"""The folder of each shape's weights, below `HOME`."""
