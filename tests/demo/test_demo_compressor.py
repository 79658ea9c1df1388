"""The compressor that ships with the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foveate
from foveate import ConvCompressor, Explainer, demo
from foveate.errors import CompressorError


def test_it_belongs_to_the_embedded_model_and_says_how_it_was_made() -> None:
    compressor = ConvCompressor.from_pretrained("demo")
    model, _ = demo.load()
    with foveate.compress(model, Explainer()):
        pass
    assert compressor.labels["data"]["split"] == "train"
    assert compressor.training_facts["images"]["training"] > 1000


def test_it_is_refused_for_the_embedded_model_of_the_other_shape() -> None:
    model, _ = demo.load(shape="qwen2-vl")
    with pytest.raises(CompressorError, match="another model"):
        foveate.compress(model, Explainer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quarter_of_the_tokens_still_holds_the_sign(dtype: torch.dtype) -> None:
    model, processor = demo.load(dtype)
    example = demo.scene(11, split="held_out")
    asked = next(question for question in example.questions if question.family in ("word", "number"))
    inputs = processor(images=example.image, text=demo.prompt(asked.text), return_tensors="pt").to(dtype=dtype)
    with foveate.compress(model, Explainer(keep=0.25)) as handle, torch.inference_mode():
        model(**inputs, logits_to_keep=1)
    kept = torch.zeros(576, dtype=torch.bool)
    kept[handle.report.images[0].plan.kept] = True
    relevant = torch.from_numpy(asked.relevant).flatten()
    # Of tokens chosen at random a quarter would be; the choice differs a little with the precision.
    assert kept[relevant].float().mean() > 0.7


def test_what_ships_is_in_the_two_files_of_earlier_versions() -> None:
    folder = demo.path().parent / "compressor"
    assert sorted(path.name for path in Path(folder).iterdir()) == ["compressor.json", "compressor.safetensors"]
