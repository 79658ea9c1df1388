"""Tasks for lmms-eval; to use them elsewhere, pass this folder, `foveate.measure.evaluation.tasks.FOLDER`, as `--include_path`."""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).parent
"""The `--include_path` for lmms-eval."""
