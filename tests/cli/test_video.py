"""`foveate ask` about a video file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from clips import write_clip, write_sound
from PIL import Image
from small_model import Run
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from vila_release import CONTEXT, TOKENS

import foveate
from foveate import Report, draw
from foveate.chat import models
from foveate.chat.conversations import build_inputs, question_about
from foveate.chat.visuals import VisualInput
from foveate.errors import InputError
from foveate.video import read_frames

QUESTION = "what colour is the circle ?"


def test_a_video_is_answered_from_its_frames_as_the_library_does(run: Run, clip: Path, frames_model: Path) -> None:
    asked = ["ask", clip, QUESTION, "--model", frames_model, "--frames", 4, "--keep", 3, "--max-new-tokens", 6, "--compare", "--json"]
    data = run(*asked).data
    assert data["frames"] == [0.5, 1.5, 2.5, 3.5]
    assert data["visual_tokens"] == 4 * TOKENS
    assert data["compressed"]["visual_tokens"] == 4 * 3
    assert "the model is shown 4 frames of 4.0 seconds" in data["notes"]
    processor, model = AutoProcessor.from_pretrained(frames_model), AutoModelForImageTextToText.from_pretrained(frames_model)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [*({"type": "image"} for _ in range(4)), {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    inputs = processor(images=list(read_frames(clip, 4).images), text=text, return_tensors="pt")

    def generate() -> str:
        output = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert data["full"]["answer"] == generate()
    with foveate.compress(model, foveate.TokenCarve(keep=3)):
        assert data["answer"] == generate()


def test_a_file_that_only_a_video_reader_knows_is_a_video(run: Run, clip: Path, frames_model: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "recording"
    unnamed.write_bytes(clip.read_bytes())
    for path in (clip, unnamed):
        data = run("ask", path, QUESTION, "--model", frames_model, "--keep", 3, "--max-new-tokens", 1, "--json").data
        assert len(data["frames"]) == 8


def test_an_animation_is_a_picture_unless_frames_are_asked_for(run: Run, frames_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    shades = [Image.new("L", (40, 30), 40 * number).convert("P") for number in range(5)]
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=200)
    asked = ["ask", path, QUESTION, "--model", frames_model, "--keep", 3, "--max-new-tokens", 1, "--json"]
    assert run(*asked).data["frames"] is None
    assert len(run(*asked, "--frames", 3).data["frames"]) == 3


def test_the_frames_that_were_kept_are_drawn_together(run: Run, clip: Path, frames_model: Path, tmp_path: Path) -> None:
    drawn, saved = tmp_path / "kept.png", tmp_path / "report.json"
    asked = ["ask", clip, QUESTION, "--model", frames_model, "--frames", 4, "--keep", 3, "--max-new-tokens", 1]
    assert run(*asked, "--picture", drawn, "--report", saved).code == 0
    assert len(Report.load(saved).images) == 4
    where = {"model": AutoConfig.from_pretrained(frames_model), "processor": AutoProcessor.from_pretrained(frames_model)}
    whole = draw.kept(saved, read_frames(clip, 4).images, **where)
    assert Image.open(drawn).tobytes() == whole.tobytes()
    single = draw.kept(saved, read_frames(clip, 4).images[0], **where)
    assert whole.height > single.height  # a row per step, a column per frame


def test_what_the_reader_had_to_say_is_noted(run: Run, frames_model: Path, tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short.mp4", 2)
    result = run("ask", short, QUESTION, "--model", frames_model, "--frames", 16, "--keep", 3, "--max-new-tokens", 1)
    assert result.code == 0
    assert "2 frame(s) instead of 16" in result.err


def test_too_many_frames_for_the_context_are_refused_with_the_way_out(run: Run, clip: Path, frames_model: Path) -> None:
    result = run("ask", clip, QUESTION + " colour" * 99, "--model", frames_model, "--frames", 40, "--keep", 3)
    assert result.code == 1
    assert str(CONTEXT) in result.err
    assert "--frames" in result.err


def test_a_model_that_takes_no_video_is_refused_before_its_weights_are_read(run: Run, clip: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    result = run("ask", clip, QUESTION, "--model", tmp_path)
    assert result.code == 1
    assert "takes no video" in result.err
    assert "families that do" in result.err


def test_a_processor_that_needs_torchvision_says_so(run: Run, clip: Path, frames_model: Path, tmp_path: Path) -> None:
    try:
        import torchvision  # noqa: F401
    except Exception:  # a build for another torch fails with whatever it likes
        pass
    else:
        pytest.skip("torchvision is there")
    AutoProcessor.from_pretrained(frames_model).tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Qwen2VLImageProcessor"}))
    result = run("ask", clip, QUESTION, "--model", tmp_path)
    assert result.code == 1
    assert "torchvision" in result.err
    assert result.err.count("\n") == 1


CASES = {
    "missing": (lambda folder: folder / "nope.mp4", "no such"),
    "empty": (lambda folder: written(folder / "a.mp4", b""), "is empty"),
    "damaged": (lambda folder: written(folder / "a.mp4", b"no video" * 99), "is not a video that can be read"),
    "sound alone": (lambda folder: write_sound(folder / "a.mp4"), "there is sound"),
}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("frames", [[], ["--frames", 4]], ids=["by its kind", "frames asked for"])
@pytest.mark.parametrize(("make", "message"), CASES.values(), ids=CASES.keys())
def test_a_file_that_cannot_be_read_is_refused_before_a_model_is_loaded(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make,  # noqa: ANN001
    message: str,
    frames: list[object],
) -> None:
    monkeypatch.setattr(models, "load_model", None)
    result = run("ask", make(tmp_path), QUESTION, *frames)
    assert result.code == 1
    assert result.out == ""
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_native_video_processor_is_told_the_times(clip: Path) -> None:
    """What a processor with a video part is handed: all frames, when each was shown, and not to choose among them."""
    given = {}

    class Processor:
        chat_template, video_processor = "x", object()

        def apply_chat_template(self, messages, **options):  # noqa: ANN001, ANN003, ANN202
            return "".join(part["type"] for part in messages[0]["content"])

        def __call__(self, **inputs: object) -> dict[str, torch.Tensor]:
            given.update(inputs)
            return {}

    frames = read_frames(clip, 4)
    processor = Processor()
    build_inputs(processor, [question_about(processor, QUESTION, VisualInput(frames.images, frames))])
    assert given["text"] == ["videotext"]
    assert given["videos"] == [list(frames.images)]
    assert given["do_sample_frames"] is False
    (metadata,) = given["video_metadata"]
    assert metadata.frames_indices == [5, 15, 25, 35]
    assert metadata.fps == pytest.approx(10)
    assert metadata.timestamps == pytest.approx([0.5, 1.5, 2.5, 3.5])


def test_frames_need_a_chat_template() -> None:
    processor = SimpleNamespace(chat_template=None)
    asked = question_about(processor, "why?", VisualInput((Image.new("RGB", (9, 9)),) * 2))
    with pytest.raises(InputError, match="processor has no chat template"):
        build_inputs(processor, [asked])
