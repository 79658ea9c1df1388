"""Shards appear whole or not at all, and `datasets` reads them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from foveate.engine.identity import ModelIdentity
from foveate.errors import InputError
from foveate.explain.labels.label_files import (
    Counts,
    LabelRow,
    LabelsInfo,
    ShardWriter,
    Skipped,
    read_info,
    read_summary,
    shards,
    write_info,
)
from foveate.files.writing import leftovers

INFO = LabelsInfo(
    model=ModelIdentity("seeing", "speaking", 32, 4, 3, 96, "abc"),
    name="mine",
    target="logit",
    gradients=True,
    states=False,
    data={"data": "x.parquet", "samples": 12},
    choice={"match": "exact"},
    shards=2,
)


def row(index: int, tokens: int, *, states: bool = False) -> LabelRow:
    random = np.random.default_rng(index)
    return LabelRow(
        id=f"{index:04d}/0",
        question="what?",
        answer="that",
        reference=None if index % 2 else "that | this",
        kind="image",
        grid=(1, 1, tokens),
        parts=((1, 2, 2), (1, 1, tokens - 4)),
        relevance=random.random(tokens, dtype=np.float32),
        attention=random.random((3, tokens)).astype(np.float16),
        answer_tokens=2,
        correct=None if index % 2 else True,
        states=random.standard_normal((tokens, 5)).astype(np.float16) if states else None,
    )


@pytest.mark.parametrize("states", [False, True])
def test_datasets_reads_back_what_was_written(tmp_path: Path, states: bool) -> None:
    written = [row(index, 6 + index % 3, states=states) for index in range(5)]
    with ShardWriter(tmp_path, 1, states=states) as shard:
        shard.skip("0007", "only a reason, no row")
    with ShardWriter(tmp_path, 2, states=states) as shard:
        shard.keep(written[2:])
    with ShardWriter(tmp_path, 0, states=states) as shard:
        shard.keep(written[:1])
        shard.keep(written[1:2])
    read = datasets.load_dataset("parquet", data_files=f"{tmp_path}/*.parquet", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == 5
    by_id = {one["id"]: one for one in read}
    for own in written:
        found = by_id[own.id]
        assert (found["reference"], found["correct"], found["grid"]) == (own.reference, own.correct, list(own.grid))
        assert found["parts"] == [list(part) for part in own.parts]
        np.testing.assert_array_equal(np.array(found["relevance"], np.float32), own.relevance)
        np.testing.assert_array_equal(np.array(found["attention"], np.float16), own.attention)
        assert ("states" in found) is states
        if states:
            np.testing.assert_array_equal(np.array(found["states"], np.float16), own.states)


def test_a_footer_says_what_happened_to_every_sample(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, states=False) as shard:
        shard.keep([row(0, 6), row(1, 6)])
        shard.answered_wrong("0002")
        shard.skip("0003", 'not "there"')
    found = read_summary(shards(tmp_path)[0])
    assert found.counts == Counts(asked=3, kept=1, wrong=1, skipped=1, rows=2)
    assert found.wrong == ("0002",)
    assert found.skipped == (Skipped("0003", 'not "there"'),)


def test_an_error_leaves_no_shard_and_no_leftover(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path, 0, states=False) as shard:
            shard.keep([row(0, 6)])
            assert len(list(leftovers(tmp_path))) == 1
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_shard_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, states=False) as shard:
        shard.keep([row(0, 6)])
        assert shards(tmp_path) == []
    assert [path.name for path in shards(tmp_path)] == ["shard-00000.parquet"]


def test_the_settings_come_back(tmp_path: Path) -> None:
    info = replace(INFO, versions={"torch": "2"}, counts=Counts(3, 2, 1, 0, 2))
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info
    assert (info.heads, info.layers, info.hidden) == (3, 4, 32)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(INFO, target="log_probability"), "target 'logit' instead of 'log_probability'"),
        (replace(INFO, gradients=False), "gradients True instead of False"),
        (replace(INFO, states=True), "states"),
        (replace(INFO, data={"data": "x.parquet", "samples": 13}), "samples 12 instead of 13"),
        (replace(INFO, choice={"match": "contains"}), "match"),
        (replace(INFO, model=replace(INFO.model, weights="abd")), "model's weights abc instead of abd"),
        (replace(INFO, shards=3), "shards"),
    ],
)
def test_a_difference_that_matters_is_named(other: LabelsInfo, named: str) -> None:
    (found,) = INFO.differences(other)
    assert named in found


def test_what_does_not_matter_is_no_difference() -> None:
    assert INFO.differences(replace(INFO, name="elsewhere", versions={"torch": "3"}, counts=Counts(1))) == []


def test_what_are_no_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no labels"):
        read_info(tmp_path)
    for text, named in [
        ("{", "not JSON"),
        ("[]", "has format None"),
        ('{"format": 99}', "has format 99"),
        ('{"format": 1}', "model is missing"),
    ]:
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(InputError, match=named):
            read_info(tmp_path)
    data = INFO.to_dict()
    del data["model"]["heads"]
    (tmp_path / "labels.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="heads"):
        read_info(tmp_path)
    stranger = tmp_path / "shard-00000.parquet"
    stranger.write_bytes(b"PAR1 but nothing else")
    with pytest.raises(InputError, match="not a shard of labels"):
        read_summary(stranger)
