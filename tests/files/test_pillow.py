"""What was made with Pillow is made with Pillow again, also where torchvision is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchvision_here import make_importable
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from foveate import demo
from foveate.chat.models import load_processor
from foveate.families.kit.processors import entries
from foveate.files.checkpoints.pillow import on_pillow


@pytest.mark.processors
@pytest.mark.parametrize("shape", demo.FOLDERS)
def test_the_embedded_models_see_what_they_were_trained_with(shape: str) -> None:
    name = "demo" if shape == "llava" else f"demo-{shape}"
    for processor in (demo.load(shape=shape)[1], load_processor(name)):
        assert type(processor.image_processor).__name__.endswith("Pil")
        settings = json.loads((demo.path(shape) / "processor_config.json").read_text())["image_processor"]
        assert entries(processor.image_processor.size) == settings["size"]
        assert list(processor.image_processor.image_mean) == settings["image_mean"]


def test_an_image_processor_of_another_kind_is_left_as_it_is() -> None:
    given = SimpleNamespace(image_processor=SiglipImageProcessorPil())
    assert on_pillow(given, CLIPImageProcessorPil).image_processor is given.image_processor


FITTING = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
WITHOUT = """
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""


@pytest.mark.parametrize("build", [FITTING, WITHOUT], ids=["a build that fits", "a build for another torch"])
def test_operators_are_declared_where_they_are_missing_and_only_there(tmp_path: Path, build: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(build)
    asked = "import torchvision_here as t; kept = t.make_importable(); import torchvision, torch; print(torch.ops.torchvision.nms, kept)"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run([sys.executable, "-c", asked], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torchvision.nms" in done.stdout
    assert done.stdout.strip().endswith("None") == (build is FITTING)


def test_nothing_is_declared_where_there_is_no_torchvision() -> None:
    assert make_importable() is None or "torchvision" in sys.modules
