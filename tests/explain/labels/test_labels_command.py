"""`foveate labels` on a small model: what it writes, what it refuses, what it skips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from label_data import encoded, picture, question, rows, write_json_lines, write_parquet
from transformers import AutoModelForImageTextToText, AutoProcessor

import foveate
from foveate.explain.labels.label_files import Counts, read_info, shards
from foveate.explain.labels.recorder import Recorder
from foveate.explain.relevance import relevance as relevance_module

Run = Callable[..., tuple[int, str]]


def test_rows_hold_what_relevance_and_the_first_layer_say(make_labels: Run, small_model: Path, tmp_path: Path) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 3), tmp_path / "labels"
    code, said = make_labels(data, out, "--states")
    assert code == 0, said
    assert "3 rows from 3 of 3 samples" in said
    model, processor = AutoModelForImageTextToText.from_pretrained(small_model).eval(), AutoProcessor.from_pretrained(small_model)
    for index, row in enumerate(rows(out)):
        inputs = processor(images=picture(index // 2), text=f"USER: <image>\n{question(index)} ASSISTANT:", return_tensors="pt")
        explained = foveate.relevance(model, inputs, max_new_tokens=3)
        recorder = Recorder()
        with foveate.compress(model, recorder), torch.no_grad():
            model(**inputs)
        (view,) = recorder.views
        np.testing.assert_allclose(row["relevance"], explained.images[0].mean, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(row["attention"], view.head_attention, rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(row["states"], view.states, rtol=2e-3, atol=1e-4)
        assert row["answer"] == processor.decode(explained.answers[0], skip_special_tokens=True).strip()
        assert row["answer_tokens"] == 3
        assert row["question"] == question(index)
        assert (row["kind"], row["grid"], row["parts"]) == ("image", [1, 6, 6], [[1, 6, 6]])
        assert (row["reference"], row["correct"]) == (None, None)
    info = read_info(out)
    assert info.counts == Counts(asked=3, kept=3, rows=3)
    assert (info.heads, info.layers, info.hidden) == (4, 4, 32)


def test_batches_give_the_same_labels(make_labels: Run, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet", 32)
    assert make_labels(data, tmp_path / "one")[0] == 0
    assert make_labels(data, tmp_path / "two", "--batch", 2)[0] == 0
    alone, together = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["id"] for row in alone] == [row["id"] for row in together]
    for one, other in zip(alone, together, strict=True):
        assert one["answer"] == other["answer"]
        np.testing.assert_allclose(other["relevance"], one["relevance"], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(other["attention"], one["attention"], rtol=2e-3, atol=1e-6)


def test_only_right_answers_are_kept_unless_all_are_asked_for(make_labels: Run, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "first.parquet", 4)
    assert make_labels(data, tmp_path / "first")[0] == 0
    said = [row["answer"] for row in rows(tmp_path / "first")]
    references = [["nothing", f"The {said[0].upper()}!"], ["nothing"], [f"{said[2].split()[0]}"], None]
    asked = write_parquet(tmp_path / "second.parquet", 4, truth=references)
    code, text = make_labels(asked, tmp_path / "exact", "--answer-column", "truth")
    assert code == 0
    assert "2 rows from 2 of 4 samples, 2 answered wrong" in text
    assert [(row["id"][:9], row["correct"]) for row in rows(tmp_path / "exact")] == [("000000000", True), ("000000003", None)]
    assert make_labels(asked, tmp_path / "contained", "--answer-column", "truth", "--match", "contains")[0] == 0
    assert [row["correct"] for row in rows(tmp_path / "contained")] == [True, True, None]
    assert make_labels(asked, tmp_path / "all", "--answer-column", "truth", "--keep-all")[0] == 0
    assert [row["correct"] for row in rows(tmp_path / "all")] == [True, False, False, None]
    assert rows(tmp_path / "all")[0]["reference"] == f"nothing | The {said[0].upper()}!"


def test_attention_alone_and_log_probabilities_are_other_labels(make_labels: Run, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet", 1)
    found = {}
    for name, options in {"logit": (), "plain": ("--no-gradients",), "log": ("--target", "log_probability")}.items():
        assert make_labels(data, tmp_path / name, *options)[0] == 0
        found[name] = np.array(rows(tmp_path / name)[0]["relevance"])
        info = read_info(tmp_path / name)
        assert (info.gradients, info.target) == (name != "plain", "log_probability" if name == "log" else "logit")
    assert not np.allclose(found["logit"], found["plain"], rtol=0.01)
    assert not np.allclose(found["logit"], found["log"], rtol=0.01)


def test_a_bad_sample_is_skipped_and_listed_and_the_others_are_not(
    make_labels: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(0).save(tmp_path / "good.png")
    (tmp_path / "damaged.png").write_bytes(encoded(1)[:60])
    (tmp_path / "text.png").write_text("no picture")
    good = {"image": "good.png", "question": question(0)}
    lines = [
        good,
        {"image": "damaged.png", "question": question(0)},
        {"image": "gone.png", "question": question(0)},
        {"image": "text.png", "question": question(0)},
        {"image": None, "question": question(0)},
        {"image": "good.png", "question": None},
        {"image": "good.png", "question": "  "},
        {"image": "good.png", "question": "circle " * 300},
        {"image": "good.png", "question": "is <image> red ?"},
        {"image": "good.png", "question": question(1), "answer": {"a": 1}},
        {"image": ["good.png", "good.png"], "question": question(0)},
        {"image": "good.png", "question": question(2)},
        good,
    ]
    data, out = write_json_lines(tmp_path / "data.jsonl", lines), tmp_path / "labels"
    for batch in (1, 8):
        out = tmp_path / f"labels{batch}"
        code, said = make_labels(data, out, "--batch", batch)
        assert code == 0, said
        assert "3 rows from 3 of 13 samples, 10 skipped" in said
        assert [row["id"] for row in rows(out)] == ["000000000/0", "000000011/0", "000000012/0"]
        skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
        assert [int(one["id"]) for one in skipped] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        for one, named in zip(
            skipped,
            [
                "damaged.png", "no such picture", "not a picture", "no image", "not a text but None", "empty", "too long", "'<image>'",
                "neither a text nor a list", "chat template",
            ],
            strict=True,
        ):  # fmt: skip
            assert named in one["reason"]


def test_a_sample_that_fails_in_the_model_spoils_no_other_of_its_batch(
    make_labels: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.explain.labels import labeller

    def sometimes(model: object, inputs: dict[str, torch.Tensor], answers: object, **options: object) -> object:
        if any("yes" in text for text in seen(inputs)):
            raise RuntimeError("out of luck")
        found = relevance_module.relevance(model, inputs, answers, **options)  # type: ignore[arg-type]
        for image in found.images:
            if "is the circle red" in seen(inputs)[image.row]:
                image.tokens[0, 3] = float("nan")
            if "what is the" in seen(inputs)[image.row]:
                image.tokens.zero_()
        return found

    from small_model import WORDS

    def seen(inputs: dict[str, torch.Tensor]) -> list[str]:
        return [" ".join(WORDS[token] for token in row) for row in inputs["input_ids"].tolist()]

    monkeypatch.setattr(labeller, "relevance", sometimes)
    out = tmp_path / "labels"
    code, said = make_labels(write_parquet(tmp_path / "data.parquet", 64), out, "--batch", 4)
    assert code == 0, said
    assert [int(row["id"][:9]) for row in rows(out)] == list(range(0, 64, 4))
    reasons = {json.loads(line)["reason"] for line in (out / "skipped.jsonl").read_text().splitlines()}
    assert reasons == {"RuntimeError: out of luck", "the relevance is not a number", "the relevance is zero everywhere"}


def test_when_nothing_can_be_used_the_most_common_reason_is_the_error(make_labels: Run, tmp_path: Path) -> None:
    lines = [{"image": "gone.png", "question": question(0)}] * 3 + [{"image": None, "question": question(0)}]
    code, said = make_labels(write_json_lines(tmp_path / "data.jsonl", lines), tmp_path / "labels")
    assert code == 1
    assert "none of 4 samples" in said
    assert "no such picture file" in said
    code, said = make_labels(write_parquet(tmp_path / "wrong.parquet", 2, answer=["x", "y"]), tmp_path / "wrong")
    assert code == 1
    assert "none of the 2 answers" in said
    assert "keep_all=True" in said


def test_a_finished_folder_is_left_as_it_is(make_labels: Run, tmp_path: Path) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 4), tmp_path / "labels"
    assert make_labels(data, out)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in shards(out)}
    assert make_labels(data, out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in shards(out)} == before


def test_going_on_with_other_settings_is_refused_by_name(make_labels: Run, tmp_path: Path) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 4), tmp_path / "labels"
    assert make_labels(data, out)[0] == 0
    before = sorted(path.name for path in out.iterdir())
    other = write_parquet(tmp_path / "other.parquet", 4, answer=list("abcd"))
    changes = {
        "gradients True instead of False": (data, "--no-gradients"),
        "target 'logit'": (data, "--target", "log_probability"),
        "states False": (data, "--states"),
        "samples 4 instead of 3": (data, "--limit", 3),
        "seed None instead of 5": (data, "--seed", 5),
        "match 'exact'": (data, "--match", "contains"),
        "dtype 'float32'": (data, "--dtype", "bfloat16"),
        "answer column None instead of 'answer'": (other,),
    }
    for named, (changed, *options) in changes.items():
        code, said = make_labels(changed, out, *options)
        assert code == 1
        assert named in said
    code, said = make_labels(data, out, model="demo")
    assert code == 1
    assert "model's hidden 32 instead of 192" in said
    assert sorted(path.name for path in out.iterdir()) == before


def test_changed_data_under_the_same_name_are_refused(make_labels: Run, tmp_path: Path) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 2), tmp_path / "labels"
    assert make_labels(data, out)[0] == 0
    write_parquet(data, 2, question=["is the circle red ?", "is the circle blue ?"])
    code, said = make_labels(data, out)
    assert code == 1
    assert "hash of the texts" in said


REFUSED = {
    "missing file": (["{folder}/gone.parquet"], "no such data"),
    "other kind of file": (["{folder}/note.txt"], "must end in"),
    "damaged file": (["{folder}/broken.parquet"], "cannot read the data"),
    "folder without data": (["{folder}/empty"], "cannot read the data"),
    "no rows": (["{folder}/none.jsonl"], "cannot read the data"),
    "no question": (["{folder}/images.jsonl"], "no column 'question'"),
    "no image": (["{folder}/texts.jsonl"], "neither an image nor a video column"),
    "named column missing": (["{folder}/data.parquet", "--answer-column", "imag"], "did you mean 'image'"),
    "another split": (["{folder}/data.parquet", "--split", "test"], "split"),
    "out is a file": (["{folder}/data.parquet", "--out", "{folder}/note.txt"], "is a file"),
    "out in no folder": (["{folder}/data.parquet", "--out", "{folder}/a/b"], "create it first"),
    "foreign parquet in out": (["{folder}/data.parquet", "--out", "{folder}"], "no labels.json"),
    "unknown model": (["{folder}/data.parquet", "--model", "{folder}/empty"], "has no config.json"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    write_parquet(folder / "data.parquet", 1)
    write_json_lines(folder / "images.jsonl", [{"image": "x.png", "answer": "red"}])
    write_json_lines(folder / "texts.jsonl", [{"question": "why ?", "answer": "red"}])
    (folder / "none.jsonl").write_text("")
    (folder / "note.txt").write_text("hello")
    (folder / "broken.parquet").write_bytes(b"PAR1")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("arguments", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused_before_any_work(
    make_labels: Run, refusals: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    data, *options = (argument.format(folder=refusals) for argument in arguments)
    code, said = make_labels(data, tmp_path / "labels", *options)
    assert code == 1
    assert named in said
    assert not (tmp_path / "labels").exists()
    assert not list(refusals.glob("shard*"))
