"""A folder of labels out of nothing, in which relevance can be learned from attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foveate.engine.identity import ModelIdentity
from foveate.explain.labels.label_files import LabelRow, LabelsInfo, ShardWriter, write_info

MODEL = ModelIdentity("llava", "llama", hidden=8, layers=2, heads=3, vocabulary=50, weights="ab")
GRIDS: tuple[tuple[tuple[int, int, int], ...], ...] = (((1, 4, 4),), ((1, 3, 5),), ((2, 3, 3),), ((1, 2, 2), (1, 3, 2)))
"""Images of two shapes, a video, and an image of two crops."""


def labels(folder: Path, samples: int = 40, *, states: bool = False, model: ModelIdentity = MODEL, seed: int = 0) -> Path:
    """Write two shards. Relevance is the square of the second head's attention, and nothing else."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    rows = [row(number, GRIDS[number % len(GRIDS)], draw, states, model) for number in range(samples)]
    for shard, part in enumerate((rows[: samples // 2], rows[samples // 2 :])):
        with ShardWriter(folder, shard, states=states) as writer:
            for one in part:
                writer.keep([one])
    write_info(folder, LabelsInfo(model, "a model", "logit", True, states, {"source": "nothing"}, {}, 2))
    return folder


def row(
    number: int, parts: Sequence[tuple[int, int, int]], draw: np.random.Generator, states: bool = False, model: ModelIdentity = MODEL
) -> LabelRow:
    n = sum(t * h * w for t, h, w in parts)
    attention = draw.dirichlet(np.full(n, 0.5), model.heads).astype(np.float16)
    relevance = attention[1].astype(np.float32) ** 2
    whole = parts[0] if len(parts) == 1 else (1, 1, n)
    more = draw.standard_normal((n, model.hidden)).astype(np.float16) if states else None
    kind = "video" if whole[0] > 1 else "image"
    return LabelRow(f"{number:09d}/0", "what?", "that", None, kind, whole, tuple(parts), relevance, attention, 1, None, more)
