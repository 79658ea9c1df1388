"""Running the command line in this process, on a small model and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from PIL import Image
from small_model import Result, Run, save_model
from vila_release import save_release

from foveate.cli import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("NO_COLOR", "1")

    def runner(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return runner


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file, wider than high."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (10, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 100)).save(path)
    return path


@pytest.fixture(scope="session")
def frames_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that is shown a video as one image per frame."""
    folder = tmp_path_factory.mktemp("frames") / "release"
    save_release(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 40)
