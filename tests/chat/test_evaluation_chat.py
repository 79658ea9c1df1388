"""Prompts: conversations with images and videos become the inputs of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import number_of, write_clip
from PIL import Image

from foveate import FastV, Plan, demo
from foveate.chat.asking import ask, mean_tokens_over_layers
from foveate.chat.conversations import Chat
from foveate.errors import InputError, UnsupportedError
from foveate.report import ImageReport, Stage


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return demo.load()


def message(question: str, *shown: Any, kind: str = "image") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind, "url": each} for each in shown), {"type": "text", "text": question}]}]


def test_the_embedded_model_is_asked_in_its_own_form(loaded: tuple[Any, Any]) -> None:
    _, processor = loaded
    shown = demo.scene(3, "held_out").image
    chat = Chat(processor)
    inputs = chat.inputs([chat.read(message("what does the sign say?", shown))])
    expected = processor(images=shown, text=demo.prompt("what does the sign say?"), return_tensors="pt")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


def test_an_open_picture_is_shown_as_its_file_would_be(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    gray = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    chat = Chat(loaded[1])
    for number, picture in enumerate((gray, clear)):
        picture.save(tmp_path / f"{number}.png")
        opened, named = (
            chat.inputs([chat.read(message("what does the sign say?", shown))]) for shown in (picture, str(tmp_path / f"{number}.png"))
        )
        assert torch.equal(opened["pixel_values"], named["pixel_values"])


def test_who_is_blind_sees_no_picture_and_hears_the_question(loaded: tuple[Any, Any]) -> None:
    chat = Chat(loaded[1], blind=True)
    conversation = chat.read(message("how many stars are there?", Image.new("RGB", (40, 40))))
    inputs = chat.inputs([conversation])
    assert conversation.kind == (False, False)
    assert "pixel_values" not in inputs
    assert "how many stars are there?" in chat.decode(inputs["input_ids"][0])


def test_a_batch_answers_as_one_by_one_does(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    chat, shown = Chat(processor), demo.scene(5, "held_out")
    asked = [chat.read(message(question.text, shown.image)) for question in shown.questions[:4]]
    method, options = FastV(keep=96), dict[str, Any]()
    together = ask(model, chat, asked, method, options, 12)
    alone = [ask(model, chat, [each], method, options, 12)[0] for each in asked]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.input_tokens for reply in together] == [reply.input_tokens for reply in alone]
    assert {(reply.visual_tokens, reply.tokens_at_the_cut) for reply in together} == {(576, 96)}
    assert {reply.mean_tokens_over_layers for reply in together} == {(2 * 576 + 6 * 96) / 8}


def test_the_full_model_and_the_blind_one_are_asked_by_the_same_code(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    shown = demo.scene(5, "held_out")
    for blind, tokens in ((False, 576), (True, 0)):
        chat = Chat(processor, blind=blind)
        (reply,) = ask(model, chat, [chat.read(message(shown.questions[0].text, shown.image))], None, {}, 12)
        assert (reply.visual_tokens, reply.tokens_at_the_cut, reply.mean_tokens_over_layers) == (tokens, tokens, tokens)
        assert reply.method_seconds == 0


def test_tokens_over_layers_follow_a_schedule() -> None:
    stages = (Stage("a", 2, Plan.keep(torch.arange(8), 16)), Stage("b", 4, Plan.keep(torch.arange(2), 8)))
    image = ImageReport(0, 0, (1, 4, 4), Plan.keep(torch.arange(2), 16), stages)
    assert mean_tokens_over_layers(image, 8) == (2 * 16 + 2 * 8 + 4 * 2) / 8


def test_a_video_is_shown_as_pictures_to_a_model_that_knows_none(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 40)
    conversation = Chat(loaded[1], frames=4).read(message("what happens?", str(clip), kind="video"))
    assert [number_of(image) for image in conversation.images] == [5, 15, 25, 35]
    assert [part["type"] for part in conversation.turns[0]["content"]] == ["image"] * 4 + ["text"]


class VideoProcessor:
    """Takes videos, and remembers how it was called."""

    chat_template, video_processor, padding_side, pad_token, bos_token, eos_token = "{{ messages }}", object(), "right", None, "<s>", "</s>"

    def apply_chat_template(self, turns: Any, **_: Any) -> str:
        return f"<s>{turns}"

    def __call__(self, **given: Any) -> dict[str, Any]:
        return given


def test_a_video_model_gets_frames_with_the_times_at_which_they_were_shown(tmp_path: Path) -> None:
    clip, processor = write_clip(tmp_path / "clip.mp4", 40, rate=10), VideoProcessor()
    chat = Chat(processor, frames=4)
    given = chat.inputs([chat.read(message("what happens?", str(clip), kind="video"))] * 2)
    assert [[number_of(frame) for frame in video] for video in given["videos"]] == [[5, 15, 25, 35]] * 2
    assert [metadata.frames_indices for metadata in given["video_metadata"]] == [[5, 15, 25, 35]] * 2
    assert given["do_sample_frames"] is False
    assert given["add_special_tokens"] is False, "the template writes the first token itself"
    assert (processor.padding_side, processor.pad_token) == ("left", "</s>")


def test_what_cannot_be_shown_is_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    chat = Chat(loaded[1])
    with pytest.raises(InputError, match="no such picture"):
        chat.read(message("what?", str(tmp_path / "missing.png")))
    with pytest.raises(UnsupportedError, match="'audio'"):
        chat.read(message("what?", "sound.wav", kind="audio"))
    with pytest.raises(UnsupportedError, match="as a whole file"):
        chat.read([{"role": "user", "content": [{"type": "video", "url": "clip.mp4", "start_time": 2.0}]}])
    with pytest.raises(InputError, match="chat template"):
        Chat(object())
