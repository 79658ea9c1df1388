"""`foveate analyse` and `foveate report`, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_model import Run

QUICK = ("--samples", "4", "--keep", "576,32", "--methods", "pool,norm", "--layers", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quick analysis of this module is."""
    return tmp_path_factory.mktemp("analysis") / "run"


def test_an_analysis_writes_cells_results_and_a_picture_and_is_shown_on_a_page(run: Run, folder: Path) -> None:
    done = run("analyse", *QUICK, "--out", folder)
    assert done.code == 0, done.err
    assert "attention output, layer 2" in done.out
    assert sorted(path.name for path in (folder / "cells").iterdir()) == ["full-576.json", "norm-32.json", "pool-32.json"]
    assert (folder / "information_loss.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((folder / "information_loss.json").read_text())
    ranks = {cell["method"]: cell["information"]["hidden_states 2 effective_rank"] for cell in [*data["cells"], data["full"]]}
    assert 1 < ranks["norm"] < ranks["pool"] < ranks["full"]
    assert json.loads((folder / "cells" / "pool-32.json").read_text())["tokens"] == 32

    shown = run("report", folder)
    assert shown.code == 0, shown.err
    assert "Information and accuracy" in (folder / "report.html").read_text()


def test_what_is_finished_is_not_measured_again(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("analyse", *QUICK, "--out", folder)
    monkeypatch.setattr("foveate.measure.analysis.information_loss.measure_cell", lambda *args, **kwargs: pytest.fail("measured again"))
    again = run("analyse", *QUICK, "--out", folder, "--json")
    assert again.code == 0, again.err
    assert again.data["questions"] == 4


def test_other_questions_do_not_resume_a_folder(run: Run, folder: Path) -> None:
    run("analyse", *QUICK, "--out", folder)
    before = (folder / "information_loss.json").read_bytes()
    refused = run("analyse", *QUICK, "--out", folder, "--samples", "5")
    assert refused.code == 1
    assert "questions was" in refused.err
    assert (folder / "information_loss.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--methods", "tokencarv,pool"), 1, "did you mean 'tokencarve'?"),
        (("--keep", "577,64"), 1, "the 576 visual tokens"),
        (("--keep", "some"), 2, "no list of whole numbers"),
        (("--layers", "2,8"), 1, "this decoder has 8 layers, 0 to 7"),
        (("--layer", "8"), 1, "this decoder has 8 layers, 0 to 7"),
        (("--methods", "pool"), 1, "at least two methods"),
        (("--samples", "1"), 2, "samples"),
    ],
)
def test_wrong_requests_are_refused_and_leave_nothing(run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    refused = run("analyse", *QUICK, *arguments, "--out", tmp_path / "run")
    assert refused.code == code
    assert words in " ".join(refused.err.split())
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_know_the_scenes_words_is_refused(run: Run, tmp_path: Path, model: Path) -> None:
    refused = run("analyse", *QUICK, "--model", model, "--out", tmp_path / "run")
    assert refused.code == 1
    assert "foveate demo train" in refused.err


def test_a_file_in_place_of_the_folder_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("mine")
    refused = run("analyse", *QUICK, "--out", path)
    assert (refused.code, path.read_text()) == (1, "mine")


@pytest.mark.parametrize(("name", "words"), [("page.pdf", ".html"), ("nowhere/page.html", "no folder")])
def test_a_page_that_cannot_be_written_is_refused(run: Run, tmp_path: Path, name: str, words: str) -> None:
    refused = run("report", tmp_path, "--out", tmp_path / name)
    assert refused.code == 1
    assert words in refused.err


def test_a_page_does_not_replace_its_results(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "results.html"
    path.write_text("{}")
    refused = run("report", path, "--out", path)
    assert (refused.code, path.read_text()) == (1, "{}")
