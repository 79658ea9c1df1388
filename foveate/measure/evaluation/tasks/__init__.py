"""Tasks for lmms-eval; others use them with `--include_path` and this folder, which is `foveate.measure.evaluation.tasks.FOLDER`."""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).parent
"""What lmms-eval takes as `--include_path`."""
