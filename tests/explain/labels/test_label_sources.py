"""Samples from everything that a data set may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from clips import write_clip
from label_data import QUESTION, encoded, picture, question, rows, write_json_lines, write_parquet
from PIL import Image
from transformers import AutoProcessor
from vila_release import TOKENS, save_release

from foveate.demo.scenes import scene
from foveate.errors import InputError
from foveate.explain.labels.dataset_samples import Columns, DatasetSamples, open_dataset
from foveate.explain.labels.pictures import read_pictures, read_video
from foveate.explain.labels.scene_samples import SceneSamples

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def opened(data: Path, columns: Columns = Columns(), **options: Any) -> DatasetSamples:  # noqa: B008
    return DatasetSamples(*open_dataset(str(data), "train"), columns, **options)


def parquet_file(folder: Path) -> Path:
    return write_parquet(folder / "data.parquet", 4, answer=["red", "blue", "red", "blue"])


def json_lines(folder: Path) -> Path:
    for number in (0, 1):
        picture(number).save(folder / f"{number}.png")
    lines = [{"image": f"{index // 2}.png", "question": question(index), "answer": ["red", "blue"][index % 2]} for index in range(4)]
    return write_json_lines(folder / "data.jsonl", lines)


def image_folder(folder: Path) -> Path:
    there = folder / "images"
    there.mkdir()
    for index in range(4):
        picture(index // 2).save(there / f"{index}.png")
    lines = [{"file_name": f"{index}.png", "question": question(index), "answer": ["red", "blue"][index % 2]} for index in range(4)]
    write_json_lines(there / "metadata.jsonl", lines)
    return there


def saved(folder: Path) -> Path:
    pictures = [picture(index // 2) for index in range(4)]
    data = {"images": pictures, "question": [question(index) for index in range(4)], "answers": [["red"], ["blue"]] * 2}
    datasets.Dataset.from_dict(data).save_to_disk(folder / "saved")
    return folder / "saved"


def folder_of_parquet(folder: Path) -> Path:
    there = folder / "shards"
    there.mkdir()
    parquet_file(there)
    return there


@pytest.mark.parametrize("make", [parquet_file, json_lines, image_folder, saved, folder_of_parquet])
def test_every_form_gives_the_same_samples(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = opened(make(tmp_path))
    assert len(source) == 4
    for index in range(4):
        sample = source.read(index)
        assert sample.question == question(index)
        assert sample.references == (["red", "blue"][index % 2],)
        (shown,) = sample.pictures
        assert np.array_equal(shown, picture(index // 2))
        assert sample.video is None
    names = [source.name(index) for index in range(4)]
    assert names == sorted(set(names))


def test_answers_may_be_one_or_several_or_numbers_or_none(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "x.png")
    answers = ["red", ["red", "blue"], 3, [4, "four"], True, None, []]
    lines = [{"image": "x.png", "question": QUESTION, "answer": answer} for answer in answers]
    source = opened(write_json_lines(tmp_path / "data.jsonl", lines))
    found = [source.read(index).references for index in range(len(answers))]
    assert found == [("red",), ("red", "blue"), ("3",), ("4", "four"), ("true",), (), ()]


def test_limit_and_seed_choose_rows_and_say_so(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet", 20, number=[f"n{index}" for index in range(20)])
    columns = Columns(question="number")

    def numbers(**options: Any) -> list[str]:
        source = opened(data, columns, **options)
        return [source.read(index).question for index in range(len(source))]

    assert numbers(limit=3) == ["n0", "n1", "n2"]
    assert numbers(limit=50) == [f"n{index}" for index in range(20)]
    shuffled = numbers(seed=1, limit=5)
    assert shuffled == numbers(seed=1, limit=5)
    assert shuffled != numbers(seed=2, limit=5)
    assert opened(data, columns, seed=1).describe() != opened(data, columns, seed=2).describe()
    json.dumps(opened(data, columns).describe())


def test_pictures_come_as_bytes_paths_pixels_or_lists_of_them(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    first, second = np.array(picture(0)), np.array(picture(1))
    several = [{"bytes": encoded(0), "path": None}, "one.png", {"bytes": None, "path": "one.png"}, picture(0), second, second.tolist()]
    found = read_pictures(several, tmp_path)
    for shown, expected in zip(found, [first, second, second, first, second, second], strict=True):
        assert np.array_equal(shown, expected)
    for value in several:
        assert len(read_pictures(value, tmp_path)) == 1
    gray = Image.new("LA", (4, 4))
    assert read_pictures(gray, tmp_path)[0].mode == "RGB"
    for wrong in ([], [None], {"bytes": b"", "path": None}, {"bytes": b"GIF", "path": None}, {"bytes": None, "path": None}, 7.5, [[1, 2]]):
        with pytest.raises((InputError, TypeError)):
            read_pictures(wrong, tmp_path)


def test_a_video_is_a_file_its_bytes_or_its_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 40)
    for value in ("clip.mp4", {"bytes": clip.read_bytes(), "path": None}, {"bytes": None, "path": "clip.mp4"}):
        shown = read_video(value, 4, tmp_path)
        assert [round(moment, 2) for moment in shown.times] == [0.5, 1.5, 2.5, 3.5]
    frames = np.stack([np.full((6, 8, 3), 10 * number, np.uint8) for number in range(9)])
    for value in (frames, frames.tolist(), [Image.fromarray(frame) for frame in frames]):
        shown = read_video(value, 3, tmp_path)
        assert [np.array(one)[0, 0, 0] for one in shown.images] == [10, 40, 70]
        assert (shown.times, shown.total, shown.duration) == ((1.0, 4.0, 7.0), 9, 9.0)
    assert len(read_video(frames, 20, tmp_path).images) == 9
    with pytest.raises(InputError, match="empty"):
        read_video([], 4, tmp_path)
    with pytest.raises(InputError, match="size"):
        read_video([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], 4, tmp_path)


def test_several_images_and_videos_are_labelled_each_for_itself(make_labels: Run, tmp_path: Path) -> None:
    model = tmp_path / "release"
    save_release(model)
    for number in (0, 1):
        picture(number).save(tmp_path / f"{number}.png")
    write_clip(tmp_path / "clip.mp4", 20)
    lines = [{"image": ["0.png", "1.png"], "question": QUESTION}, {"image": "1.png", "question": QUESTION}]
    code, said = make_labels(write_json_lines(tmp_path / "images.jsonl", lines), tmp_path / "images", "--batch", 2, model=model)
    assert code == 0, said
    assert [row["id"] for row in rows(tmp_path / "images")] == ["000000000/0", "000000000/1", "000000001/0"]
    video = write_json_lines(
        tmp_path / "videos.jsonl", [{"video": "clip.mp4", "question": QUESTION}, {"video": "gone.mp4", "question": QUESTION}]
    )
    code, said = make_labels(video, tmp_path / "videos", "--frames", 3, model=model)
    assert code == 0, said
    assert "no such video file" in (tmp_path / "videos" / "skipped.jsonl").read_text()
    tokens = {name: [len(row["relevance"]) for row in rows(tmp_path / name)] for name in ("images", "videos")}
    assert sum(tokens["videos"]) == sum(tokens["images"]) == 3 * TOKENS


def test_a_video_for_a_model_that_takes_none_is_refused(make_labels: Run, tmp_path: Path) -> None:
    data = write_json_lines(tmp_path / "videos.jsonl", [{"video": "clip.mp4", "question": QUESTION}])
    code, said = make_labels(data, tmp_path / "labels")
    assert code == 1
    assert "takes no video" in said


def test_a_question_before_the_image_is_skipped_with_the_reason(make_labels: Run, small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in small_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    processor = AutoProcessor.from_pretrained(folder)
    image, text = "{{ '<image>\\n' }}", "{{ messages[0]['content'][1]['text'] + ' ' }}"
    labelled = {}
    for name, order in {"before": text + image, "behind": image + text}.items():
        processor.chat_template = "USER: " + order + "ASSISTANT:"
        processor.save_pretrained(folder)
        labelled[name] = make_labels(write_parquet(tmp_path / "data.parquet", 2), tmp_path / name, model=folder)
    assert labelled["before"][0] == 1
    assert "the question precedes the image" in labelled["before"][1]
    assert labelled["behind"][0] == 0, labelled["behind"][1]


def test_scenes_are_those_of_training_and_ask_everything() -> None:
    source = SceneSamples(30, first=3)
    assert len(source) == 30
    expected = [(number, one) for number in range(3, 9) for one in scene(number, "train").questions][:30]
    for index, (number, asked) in enumerate(expected):
        sample = source.read(index)
        assert (sample.question, sample.references) == (asked.text, (asked.answer,))
        assert np.array_equal(sample.pictures[0], scene(number, "train").image)
        assert not np.array_equal(sample.pictures[0], scene(number, "held_out").image)
        assert source.name(index).startswith(f"scene-{number:07d}-")
    names = [source.name(index) for index in range(30)]
    assert names == sorted(set(names))


def test_labels_of_scenes_come_from_the_embedded_model(make_labels: Run, tmp_path: Path) -> None:
    code, said = make_labels("scenes", tmp_path / "labels", "--limit", 3, "--max-new-tokens", 8, model=Path("demo"))
    assert code == 0, said
    for row in rows(tmp_path / "labels"):
        assert row["grid"] == [1, 24, 24]
        assert row["correct"] is True
        assert row["answer"] == row["reference"]
        assert len(row["relevance"]) == 576
        assert min(row["relevance"]) >= 0
        assert np.array(row["attention"]).shape == (6, 576)
