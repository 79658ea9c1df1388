"""Finished results of a long measurement in a folder, found again under the same settings only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import BusyError, InputError, RecordError
from foveate.files.records import RecordSchema
from foveate.measure.store import ResultStore, changes

SCHEMA: RecordSchema[dict[str, int]] = RecordSchema("a result of this test", dict[str, int])


def store(folder: Path, **settings: Any) -> ResultStore:
    return ResultStore(folder, settings, SCHEMA)


def test_results_are_found_again_by_name(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2) as first:
        assert "a/b" not in first
        assert first.get("a/b") is None
        first["a/b"] = {"right": 3}
    with store(tmp_path / "run", layer=2) as second:
        assert "a/b" in second
        assert second["a/b"] == second.get("a/b") == {"right": 3}


def test_other_settings_are_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2, seed=None) as first:
        first["a"] = {"right": 3}
    before = (tmp_path / "run" / "settings.json").read_bytes()
    with pytest.raises(InputError, match="layer was 2 and is 3; dtype was None and is 'auto'"):
        store(tmp_path / "run", layer=3, seed=None, dtype="auto")
    assert (tmp_path / "run" / "settings.json").read_bytes() == before


def test_settings_of_a_run_that_finished_nothing_may_change(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2):
        pass
    with store(tmp_path / "run", layer=3) as second:
        second["a"] = {"right": 1}
    with pytest.raises(InputError, match="layer was 3 and is 2"):
        store(tmp_path / "run", layer=2)


def test_settings_of_a_run_that_was_killed_in_its_first_result_may_change(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2):
        pass
    (tmp_path / "run" / "cells" / "a").mkdir(parents=True)
    (tmp_path / "run" / "cells" / "a" / ".b.json.01234567-8-9.part").write_text('{"right"')
    with store(tmp_path / "run", layer=3) as second:
        second["a/b"] = {"right": 1}
    assert [path.name for path in (tmp_path / "run" / "cells" / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_result_that_could_not_be_read_again_is_not_saved(value: float, tmp_path: Path) -> None:
    with store(tmp_path, layer=2) as found:
        found["a"] = {"right": 3}
        with pytest.raises(InputError, match="the result a holds NaN or infinity, so it is not saved"):
            found["a"] = {"right": [value]}
        assert found["a"] == {"right": 3}


def test_settings_of_the_first_versions_named_no_format(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps({"layers": [1, 2]}))
    (tmp_path / "cells" / "a.json").write_text('{"right": 2}')
    with store(tmp_path, layers=[1, 2]) as found:
        assert found["a"] == {"right": 2}
    assert json.loads((tmp_path / "settings.json").read_text())["format"] == 1


def test_settings_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps({"format": 2, "layer": 2}))
    with pytest.raises(InputError, match="format was 2 and is 1"):
        store(tmp_path, layer=2)


@pytest.mark.parametrize("name", ["letter.txt", "cells"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="something other than a run"):
        store(tmp_path, layer=2)


def test_one_process_holds_the_folder_and_another_waits(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2), pytest.raises(BusyError), store(tmp_path / "run", layer=2):
        pass


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    with store(tmp_path / "run", layer=2) as made:
        made["a"] = {"right": 3}
        (tmp_path / "run" / "cells" / "a.json").write_text('{"right": "many"}')
        with pytest.raises(RecordError, match=r"a\.json is not a result of this test: right"):
            made["a"]


def test_a_store_that_is_removed_leaves_nothing_and_spares_the_files_of_others(tmp_path: Path) -> None:
    for name in ("alone", "shared"):
        with store(tmp_path / name, layer=2) as made:
            made["a/b"] = {"right": 3}
            if name == "shared":
                (tmp_path / name / "letter.txt").write_text("mine")
            made.remove()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["shared", "shared/letter.txt"]


def test_settings_that_are_equal_in_json_are_equal() -> None:
    assert changes({"layers": (1, 2), "seed": 0}, {"layers": [1, 2], "seed": 0}) == []
    assert changes({"seed": 0}, {"seed": False}) == ["seed was 0 and is False"]


def test_benchmarks_read_what_earlier_versions_kept_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    earlier = tmp_path / "accuracy.partial.json"
    pairs = {"batch 0": [[0.5]], "FastV, 64": {"right": "01"}}
    earlier.write_text(json.dumps({"settings": {"each": 20}, "pairs": pairs}))
    with pytest.raises(InputError, match="each was 20 and is 40"):
        common.finished("accuracy", {"each": 40})
    assert earlier.exists()
    done = common.finished("accuracy", {"each": 20})
    assert {name: done[name] for name in pairs} == pairs
    assert not earlier.exists()
    done.remove()
    sys.modules.pop("common")
