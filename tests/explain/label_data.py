"""Small data sets in every form that `foveate labels` reads, and what it leaves in a folder."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))

from small_model import save_model

QUESTION = "what colour is the circle ?"
QUESTIONS = [QUESTION, "is the circle red ?", "what is the circle ?", "is the circle blue ? yes no"]

__all__ = ["QUESTION", "QUESTIONS", "encoded", "picture", "question", "rows", "save_model", "write_json_lines", "write_parquet"]


def picture(seed: int, size: tuple[int, int] = (100, 90)) -> Image.Image:
    """Coarse noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def encoded(seed: int) -> bytes:
    """The same as the content of a PNG file."""
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def question(index: int) -> str:
    """One of a few, of different lengths."""
    return QUESTIONS[index % len(QUESTIONS)]


def write_parquet(path: Path, samples: int, **columns: Sequence[Any]) -> Path:
    """Embedded pictures, two questions about each, and further columns."""
    images = [{"bytes": encoded(index // 2), "path": None} for index in range(samples)]
    table = {"image": images, "question": [question(index) for index in range(samples)], **columns}
    parquet.write_table(pa.table({name: pa.array(list(values)) for name, values in table.items()}), path)
    return path


def write_json_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """One object a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all shards, by id."""
    found = [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: row["id"])
