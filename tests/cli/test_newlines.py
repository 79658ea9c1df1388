"""Visual tokens are counted one way, with the newlines that share their placeholder apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_model import Run, save_tiled_model

from foveate import Random
from foveate.chat.asking import ask
from foveate.chat.conversations import Chat
from foveate.chat.counting import counted, placeholders
from foveate.chat.models import load_model

QUESTION = "what colour is the circle ?"
VISUAL, NEWLINES = 36 + 6 * 12, 6


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiled")
    save_tiled_model(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide.png"
    Image.effect_noise((168, 84), 90).convert("RGB").save(path)
    return path


def test_all_tokens_kept_are_all_tokens_there(run: Run, tiled: Path, wide: Path) -> None:
    asked = ["ask", wide, QUESTION, "--model", tiled, "--keep", "1.0", "--compare", "--max-new-tokens", 2]
    data = run(*asked, "--json").data
    assert data["visual_tokens"] == data["compressed"]["visual_tokens"] == data["full"]["visual_tokens"] == VISUAL
    assert data["newlines"] == NEWLINES
    assert data["compressed"]["cache_bytes"] == data["full"]["cache_bytes"]
    rows = [line.split() for line in run(*asked).out.splitlines()]
    assert ["visual", "tokens", str(VISUAL), str(VISUAL), "100.0%", "kept"] in rows
    assert ["newlines,", "which", "stay", str(NEWLINES), str(NEWLINES)] in rows


@pytest.mark.parametrize("options", [["--keep", 9], ["--method", "none"]], ids=["alone", "the full model alone"])
def test_one_way_of_answering_has_the_same_count(run: Run, tiled: Path, wide: Path, options: list[object]) -> None:
    asked = ["ask", wide, QUESTION, "--model", tiled, "--max-new-tokens", 2, *options]
    data = run(*asked, "--json").data
    assert (data["visual_tokens"], data["newlines"]) == (VISUAL, NEWLINES)
    assert data["prompt_tokens"] > VISUAL + NEWLINES
    assert "newlines, which stay" in run(*asked).out


def test_explaining_has_the_same_count(run: Run, tiled: Path, wide: Path) -> None:
    data = run("explain", wide, QUESTION, "--model", tiled, "--max-new-tokens", 1, "--json").data
    assert (data["visual_tokens"], data["newlines"]) == (VISUAL, NEWLINES)


def test_a_model_without_newlines_has_no_row_for_them(run: Run, model: Path, picture: Path) -> None:
    asked = ["ask", picture, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 1]
    assert run(*asked, "--json").data["newlines"] == 0
    assert "newlines" not in run(*asked).out


def test_an_evaluation_counts_the_full_model_and_a_method_alike(tiled: Path, wide: Path) -> None:
    subject = load_model(str(tiled), "auto", "cpu", compress=True)
    subject.processor.chat_template = (
        "{% for turn in messages %}{% for part in turn.content %}"
        "{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    chat = Chat(subject.processor)
    pictures = [Image.open(wide), Image.open(wide).transpose(Image.Transpose.ROTATE_90)]
    asked = [
        chat.read([{"role": "user", "content": [{"type": "image", "url": picture}, {"type": "text", "text": QUESTION}]}])
        for picture in pictures
    ]
    full, kept = (ask(subject.model, chat, asked, method, {}, 1) for method in (None, Random(keep=1.0)))
    for one, other in zip(full, kept, strict=True):
        assert one.visual_tokens == one.tokens_at_the_cut == other.visual_tokens == other.tokens_at_the_cut == VISUAL


def test_counting_leaves_the_model_as_it_was(tiled: Path, wide: Path) -> None:
    subject = load_model(str(tiled), "auto", "cpu", compress=True)
    before = dict(vars(subject.model.model))
    inputs = subject.processor(images=Image.open(wide), text=f"<image> {QUESTION}", return_tensors="pt")
    with counted(subject.model) as count, torch.no_grad():
        subject.model(**inputs)
        assert count(inputs["input_ids"]) == [VISUAL]
    assert placeholders(subject.model, inputs["input_ids"]) == [VISUAL + NEWLINES]
    assert vars(subject.model.model).keys() == before.keys()


def test_a_model_that_no_family_can_read_is_counted_by_its_placeholders() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="of no family", image_token_id=7))
    with counted(model) as count:  # type: ignore[arg-type]
        assert count(torch.tensor([[1, 7, 7, 2], [7, 1, 1, 1]])) == [2, 1]
