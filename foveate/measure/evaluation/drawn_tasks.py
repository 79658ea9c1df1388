"""Stand-ins for public data sets that cannot be downloaded: questions about scenes in the same columns, as tasks of their own.

Each stand-in is a table in the exact columns of the public one, and a YAML file that includes lmms-eval's packaged task: reading
a row and scoring an answer are lmms-eval's own code. Only the source of the rows is replaced, and the sentence after each question
about the form of the answer, which the embedded model never learned, is omitted.

    python -m foveate.measure.evaluation.drawn_tasks FOLDER            # then: lmms-eval --include_path FOLDER --tasks foveate_pope,...
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from foveate.demo.scenes import Scene, scene
from foveate.demo.scenes.drawing import COLOURS, SHAPES, Item
from foveate.demo.scenes.questions import PLURALS, article
from foveate.errors import UnknownNameError
from foveate.files.writing import make_folder, whole, write_whole

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["DRAWN", "draw_task"]

ROWS = 300
"""Rows by default."""

LONGEST_ANSWER = 16
"""Tokens."""

_FIRST_SEED = 1_000_000
"""The scenes differ from those of `foveate_scenes`."""

Row = dict[str, Any]


def _pope(number: int, shown: Scene, picture: dict[str, Any]) -> Iterator[Row]:
    """Whether a thing is present: one question about a present thing and one about an absent thing, under POPE's three names in turn.

    Colours and shapes are equally frequent in scenes, so "popular" things are no different from random ones; "adversarial" ones share
    colour or shape with something present.
    """
    there = {(item.colour, item.shape) for item in _objects(shown)}
    absent = [pair for pair in itertools.product(COLOURS, SHAPES) if pair not in there]
    near = [pair for pair in absent if any(pair[0] == colour or pair[1] == shape for colour, shape in there)]
    kind = ("random", "popular", "adversarial")[number % 3]
    missing = (near if kind == "adversarial" else absent)[number * 7 % len(near if kind == "adversarial" else absent)]
    for answer, (colour, shape) in (("yes", sorted(there)[number % len(there)]), ("no", missing)):
        question = f"Is there {article(colour)} {shape}?"
        yield {"question": question, "answer": answer, "image_source": f"scene_{number}", "image": picture, "category": kind}


def _textvqa(number: int, shown: Scene, picture: dict[str, Any]) -> Iterator[Row]:
    """What a sign says, with ten identical answers."""
    asked = next((question for question in shown.questions if question.family in ("word", "number")), None)
    if asked is None:
        return
    width, height = shown.image.size
    yield {
        "image_id": f"{number:016x}",
        "question": asked.text,
        "question_tokens": asked.text.rstrip("?").split(),
        "image": picture,
        "image_width": width,
        "image_height": height,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": [asked.answer] * 10,
        "image_classes": sorted({item.shape for item in _objects(shown)}),
        "set_name": "val",
        "ocr_tokens": [item.text for item in shown.items if item.kind == "sign"],
    }


def _mme(number: int, shown: Scene, picture: dict[str, Any]) -> Iterator[Row]:
    """Two questions about one image, one answered yes and one no, from one of four categories in turn."""
    asking = (_existence, _position, _count, _colour)
    for offset in range(len(asking)):
        category, pair = asking[(number + offset) % len(asking)](number, _objects(shown))
        if pair is not None:
            for answer, question in zip(("Yes", "No"), pair, strict=True):
                yield {
                    "question_id": f"{category}/{number:06d}.png",
                    "image": picture,
                    "question": question,
                    "answer": answer,
                    "category": category,
                }
            return


YesNoPair = tuple[str, tuple[str, str] | None]


def _existence(number: int, objects: list[Item]) -> YesNoPair:
    there = sorted({item.shape for item in objects})
    absent = [shape for shape in SHAPES if shape not in there]
    return "existence", (f"Is there {article(there[0])}?", f"Is there {article(absent[number % len(absent)])}?")


def _position(number: int, objects: list[Item]) -> YesNoPair:
    named = [item for item in objects if sum((o.colour, o.shape) == (item.colour, item.shape) for o in objects) == 1]
    for one, other in itertools.combinations(sorted(named, key=lambda item: item.centre[0]), 2):
        if other.centre[0] - one.centre[0] > 60:
            first, second = f"{one.colour} {one.shape}", f"{other.colour} {other.shape}"
            return "position", (f"Is the {first} left of the {second}?", f"Is the {first} right of the {second}?")
    return "position", None


def _count(number: int, objects: list[Item]) -> YesNoPair:
    counts = {shape: sum(item.shape == shape for item in objects) for shape in SHAPES}
    for more, less in itertools.permutations([shape for shape in counts if counts[shape]], 2):
        if counts[more] > counts[less]:
            asked = (PLURALS[more], PLURALS[less])
            return "count", (f"Are there more {asked[0]} than {asked[1]}?", f"Are there more {asked[1]} than {asked[0]}?")
    return "count", None


def _colour(number: int, objects: list[Item]) -> YesNoPair:
    single = [item for item in objects if sum(other.shape == item.shape for other in objects) == 1]
    pairs = list(itertools.combinations(single, 2))
    same = [f"Do the {a.shape} and the {b.shape} have the same colour?" for a, b in pairs if a.colour == b.colour]
    unlike = [f"Do the {a.shape} and the {b.shape} have the same colour?" for a, b in pairs if a.colour != b.colour]
    return "color", (same[0], unlike[0]) if same and unlike else None


def _objects(shown: Scene) -> list[Item]:
    return [item for item in shown.items if item.kind == "object"]


def _features(name: str) -> Features:
    """The columns of the public table."""
    from datasets import Features, Image, List, Value

    text, whole = Value("string"), Value("int32")
    columns: dict[str, dict[str, Any]] = {
        "pope": dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), text) | {"image": Image(), "category": text},
        "textvqa": {
            "image_id": text, "question_id": whole, "question": text, "question_tokens": List(text), "image": Image(),
            "image_width": whole, "image_height": whole, "flickr_original_url": text, "flickr_300k_url": text, "answers": List(text),
            "image_classes": List(text), "set_name": text, "ocr_tokens": List(text),
        },
        "mme": {"question_id": text, "image": Image(), "question": text, "answer": text, "category": text},
    }  # fmt: skip
    return Features(columns[name])


DRAWN: dict[str, tuple[str, str, str, Callable[[int, Scene, dict[str, Any]], Iterator[Row]]]] = {
    "foveate_pope": ("pope", "pope/pope.yaml", "test", _pope),
    "foveate_textvqa": ("textvqa", "textvqa/textvqa_val.yaml", "validation", _textvqa),
    "foveate_mme": ("mme", "mme/mme.yaml", "test", _mme),
}
"""By task: the public table, lmms-eval's own file for it, the split that it reads, and the questions about a scene."""


def draw_task(name: str, folder: Path, rows: int = ROWS) -> Path:
    """Write one stand-in: a table, and then a YAML file.

    Args:
        name: one of `DRAWN`.
        folder: created if it does not exist.
        rows: the least number of questions.

    Returns:
        the YAML file.

    Raises:
        UnknownNameError: no stand-in has this name.
    """
    import lmms_eval.tasks
    from datasets import Dataset

    if name not in DRAWN:
        raise UnknownNameError(f"unknown stand-in {name!r}: known are {', '.join(DRAWN)}")
    table, packaged, split, asking = DRAWN[name]
    make_folder(folder)
    found: list[Row] = []
    for number in itertools.count():
        if len(found) >= rows:
            break
        shown = scene(_FIRST_SEED + number, "held_out")
        found += asking(number, shown, _png(shown.image))
    features = _features(table)
    numbered = [{**_numbers(table, place), **row} for place, row in enumerate(found)]
    ordered = [{column: row[column] for column in features} for row in numbered]
    data = folder / f"{name}.parquet"
    with whole(data) as unfinished:
        Dataset.from_list(ordered, features=features).to_parquet(str(unfinished))
    written = folder / f"{name}.yaml"
    write_whole(written, _yaml(name, Path(lmms_eval.tasks.__file__).parent / packaged, split, data.name))
    return written


def _numbers(table: str, place: int) -> Row:
    """The columns that number the rows."""
    numbers: dict[str, Row] = {"pope": {"id": str(place), "question_id": str(place)}, "textvqa": {"question_id": place}, "mme": {}}
    return numbers[table]


def _png(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def _yaml(name: str, packaged: Path, split: str, data: str) -> str:
    import yaml

    config = {
        "include": str(packaged),
        "task": name,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: data}},
        "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": "", "ocr": False}},
        # without the image, the embedded model never ends its answer
        "generation_kwargs": {"max_new_tokens": LONGEST_ANSWER, "temperature": 0, "do_sample": False},
    }
    return str(yaml.safe_dump(config, sort_keys=False))


def main() -> None:
    """`python -m foveate.measure.evaluation.drawn_tasks FOLDER [ROWS]`."""
    import typer

    def write(folder: Path, rows: int = ROWS) -> None:
        for name in DRAWN:
            typer.echo(str(draw_task(name, folder, rows)))

    typer.run(write)


if __name__ == "__main__":
    main()
