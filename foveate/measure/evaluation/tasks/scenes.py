"""The functions that foveate_scenes.yaml names: the image of a row, and whether an answer is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.demo.scenes import VERSION, scene
from foveate.errors import InputError
from foveate.files.writing import write_whole
from foveate.measure.scenes import READING, SceneQuestion, balanced

ROWS = Path(__file__).parent / "held_out.jsonl"


def picture(row: Mapping[str, Any]) -> list[Image.Image]:
    """The scene of a row, drawn anew.

    Raises:
        InputError: the rows were written for other scenes than this version draws.
    """
    if row["scenes"] != VERSION:
        raise InputError(f"these questions are about scenes of version {row['scenes']}, and version {VERSION} is drawn; write them anew")
    return [_image(row["seed"])]


@lru_cache(maxsize=64)
def _image(seed: int) -> Image.Image:
    return scene(seed, "held_out").image


def score(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the whole answer is right; once more as `reading` for questions about signs."""
    right = float(results[0].strip() == row["answer"])
    return {"exact_match": right, **({"reading": right} if row["family"] in READING else {})}


def in_turn(samples: Sequence[SceneQuestion]) -> list[SceneQuestion]:
    """The samples reordered: the first of each family, then the second of each."""
    families: dict[str, list[SceneQuestion]] = {}
    for sample in samples:
        families.setdefault(sample.question.family, []).append(sample)
    return list(chain.from_iterable(zip(*families.values(), strict=True)))


def rows(samples: Sequence[SceneQuestion]) -> list[dict[str, Any]]:
    """What stands in held_out.jsonl for these samples."""
    return [
        {
            "question_id": number,
            "scenes": VERSION,
            "seed": sample.seed,
            "family": sample.question.family,
            "tags": " ".join(sample.question.tags),
            "question": sample.question.text,
            "answer": sample.question.answer,
        }
        for number, sample in enumerate(samples)
    ]


def main() -> None:
    """Write held_out.jsonl anew: `python -m foveate.measure.evaluation.tasks.scenes`."""
    write_whole(ROWS, "".join(f"{json.dumps(row)}\n" for row in rows(in_turn(balanced()))))


if __name__ == "__main__":
    main()
