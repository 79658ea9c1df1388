"""Running `foveate labels` in this process, on a small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from label_data import save_model

from foveate.cli import main


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, which answers with random words."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return folder


@pytest.fixture
def make_labels(small_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs the command with a few tokens an answer; gives exit code and everything it wrote."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(data: object, out: Path, *options: object, model: Path = small_model) -> tuple[int, str]:
        given = ["labels", data, "--out", out, "--model", model, "--max-new-tokens", 3, "--device", "cpu", *options]
        code = main([str(one) for one in given])
        return code, "".join(capfd.readouterr())

    return run
