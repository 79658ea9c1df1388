"""The recipe of the embedded model, on a tiny one."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_training import killed_and_resumed
from torch import distributed
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

pytest.importorskip("sklearn")

from foveate.demo.model.architecture import build, configuration, tower_states
from foveate.demo.model.language import IMAGE_TOKEN, build_processor, prompt, vocabulary
from foveate.demo.model.packed import packed_states
from foveate.demo.model.shapes import EMBEDDED_SHAPES
from foveate.demo.scenes import scene
from foveate.demo.scenes.labels import GRID, IGNORED
from foveate.demo.scenes.questions import FAMILIES
from foveate.errors import BusyError, TrainingError
from foveate.files.locks import claimed_folder
from foveate.recipe.decoder import (
    DESCRIPTION_LESSON,
    SCENE_LESSON,
    SEALED,
    SHORT_LESSON,
    DecoderPhase,
    LessonSize,
    ProjectorAndDecoder,
    draw_lesson,
)
from foveate.recipe.muon import Muon, orthogonalise
from foveate.recipe.optimise import Optimiser
from foveate.recipe.tower import draw_windows, normalise, to_patches
from foveate.recipe.train import Recipe, carry_over, export, export_checkpoint, train

pytestmark = pytest.mark.one_version

LLAVA = EMBEDDED_SHAPES["llava"]
TINY = Recipe(steps=(3, 3), batch=4, hidden=96, tower_layers=2, layers=5, bfloat16=False, checkpoint_every=0)


@pytest.fixture
def tiny() -> LlavaForConditionalGeneration:
    return build(configuration(len(vocabulary()), vocabulary()[IMAGE_TOKEN], hidden=96, tower_layers=2, layers=5), 0).eval()


def test_the_tower_on_all_patches_is_the_stock_tower(tiny: LlavaForConditionalGeneration) -> None:
    example = scene(3)
    inputs = build_processor()(images=example.image, text=prompt("is there a star?"), return_tensors="pt")
    stock = tiny.model.vision_tower(inputs["pixel_values"]).last_hidden_state[:, 1:]
    pixels = torch.frombuffer(bytearray(example.image.tobytes()), dtype=torch.uint8).view(1, 336, 336, 3).numpy()
    patches = normalise(to_patches(pixels), torch.float32)
    ours = tower_states(tiny.model.vision_tower, patches, torch.arange(GRID * GRID)[None])
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_packed_question_is_answered_exactly_as_alone(tiny: LlavaForConditionalGeneration) -> None:
    lesson = draw_lesson((1,), "train", 1, GRID)
    patches = normalise(lesson.patches, torch.float32)
    seen = tower_states(tiny.model.vision_tower, patches, lesson.positions)
    packed, _ = ProjectorAndDecoder(LLAVA, tiny)(seen, lesson)
    weight = tiny.model.vision_tower.embeddings.patch_embedding.weight
    pixels = patches.view(1, GRID, GRID, 3, 14, 14).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 336, 336)
    assert weight.shape[-1] == 14
    before = torch.tensor(build_processor().tokenizer(prompt("?")).input_ids)
    before = before[: (before == vocabulary()[IMAGE_TOKEN]).nonzero()[0, 0]]
    for slot in range(3):
        length = int((lesson.tokens[0, slot] != 0).sum())
        image = torch.full((GRID * GRID,), vocabulary()[IMAGE_TOKEN])
        ids = torch.cat([before, image, lesson.tokens[0, slot, :length]])[None]
        alone = tiny(input_ids=ids, pixel_values=pixels).logits[0, len(before) + GRID * GRID :]
        rows = lesson.rows[0, slot][lesson.wanted[0, slot] != IGNORED]
        torch.testing.assert_close(packed[0, slot, : len(rows)], alone[rows], atol=1e-4, rtol=1e-4)


def test_every_question_fits_and_its_answer_is_what_is_wanted() -> None:
    lesson = draw_lesson((2,), "train", 6, 10)
    asked = lesson.families >= 0
    assert asked.any(1).all()
    assert lesson.tokens.shape[1:] == (SHORT_LESSON.questions, SHORT_LESSON.length)
    first = lesson.tokens.gather(2, lesson.rows[..., 1:2])[..., 0]
    several = asked & (lesson.wanted[..., 2] != IGNORED)
    assert (first == lesson.wanted[..., 0])[several].all()
    assert (lesson.wanted[~asked] == IGNORED).all()


def test_the_relevant_patches_of_a_sign_are_split_over_its_characters() -> None:
    lesson = draw_lesson((4,), "train", 8, 10)
    read = torch.isin(lesson.families, torch.tensor([FAMILIES.index("word"), FAMILIES.index("number")])).nonzero()
    assert len(read)
    for image, slot in read.tolist():
        rows = lesson.first[image, slot]
        assert (rows <= lesson.whole[image, slot]).all()
        assert not (rows[0] & rows[1]).any()


def test_two_things_that_are_related_are_apart() -> None:
    lesson = draw_lesson((5,), "train", 12, 12)
    for family in ("relation", "hop"):
        related = (lesson.families == FAMILIES.index(family)).nonzero().tolist()
        assert related, family
        for image, slot in related:
            first, second = lesson.first[image, slot, 0], lesson.second[image, slot, 0]
            assert ((first | second) <= lesson.whole[image, slot]).all()
            assert first.any()
            assert second.any()
            assert not torch.equal(first, second)


def test_each_token_of_a_description_is_about_the_thing_that_it_names() -> None:
    lesson = draw_lesson((6,), "train", 6, 14, DESCRIPTION_LESSON)
    tokens = vocabulary()
    assert (lesson.families == FAMILIES.index("description")).all()
    for image in range(6):
        wanted, goals = lesson.wanted[image, 0], lesson.first[image, 0]
        ends = torch.isin(wanted, torch.tensor([tokens[","], tokens["and"]])).nonzero()[:, 0].tolist()
        assert ends
        for end in ends:
            assert not (goals[end - 1] & goals[end + 1]).all()
            assert goals[end + 1].any()
            assert not torch.equal(goals[max(0, end - 2)], goals[end + 2])
        told = goals[: int((wanted != IGNORED).sum())].any(0)
        assert (told <= lesson.whole[image, 0]).all()


@pytest.mark.parametrize("form", [SHORT_LESSON, SCENE_LESSON, DESCRIPTION_LESSON])
def test_no_question_is_longer_than_its_form(form: LessonSize) -> None:
    for seed in range(6):
        lesson = draw_lesson((7, seed), "train", 8, 14, form)
        assert (lesson.families >= 0).any(1).all()
        assert (lesson.wanted != IGNORED).any(-1).equal(lesson.families >= 0)


@torch.no_grad()
def test_the_first_layers_learn_nothing_of_what_is_in_the_picture(tiny: LlavaForConditionalGeneration) -> None:
    """With the values of two pictures swapped in the sealed layers, only the attention there can depend on the own one."""
    lesson = draw_lesson((8,), "train", 2, 10)
    seen = tower_states(tiny.model.vision_tower, normalise(lesson.patches, torch.float32), lesson.positions)
    shared = torch.cat(
        [tiny.get_input_embeddings()(torch.tensor([[1, 7]])).expand(2, -1, -1), tiny.model.multi_modal_projector(seen)], dim=1
    )
    positions = torch.arange(shared.shape[1]).expand(2, -1)
    decoder = tiny.model.language_model
    decoder.layers = decoder.layers[:SEALED]
    # One look of all questions at everything: what is read is then the same for both pictures if only the values count.
    for layer in decoder.layers:
        layer.self_attn.q_proj.weight.zero_()
    lesson.tokens[1] = lesson.tokens[0]
    states, _ = packed_states(decoder, shared, positions, lesson.tokens, question_position=600, sealed=(SEALED, 2))
    own, _ = packed_states(decoder, shared, positions, lesson.tokens, question_position=600)
    torch.testing.assert_close(states[0], own[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(states[0], own[0], atol=1e-2)


def test_a_run_can_continue_from_the_weights_of_an_earlier_one(tmp_path: Path, tiny: LlavaForConditionalGeneration) -> None:
    folder = train(tmp_path / "first", TINY)
    carry_over(LLAVA, folder, tiny)
    earlier = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    for name, weight in earlier.state_dict().items():
        assert torch.equal(weight, tiny.state_dict()[name]), name
    other = build(configuration(len(vocabulary()), vocabulary()[IMAGE_TOKEN], hidden=96, tower_layers=2, layers=6), 0)
    with pytest.raises(ValueError, match="another shape"):
        carry_over(LLAVA, folder, other)


def test_muon_brings_singular_values_near_to_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 20, 50), (2, 50, 20), (1, 30, 60)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.4


def test_muon_learns_as_the_one_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 24 * 16).view(24, 16)) for _ in range(2))
    one, other = Muon([ours], lr=0.02), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        gradient = torch.randn(24, 16)
        for weight, optimiser in ((ours, one), (theirs, other)):
            weight.grad = gradient.clone()
            optimiser.step()
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0, msg=f"step {step}")


def test_drawing_depends_on_nothing_but_its_seed() -> None:
    one, again = draw_windows((1, 2), "train", 2, 8), draw_windows((1, 2), "train", 2, 8)
    assert torch.equal(one.patches, again.patches)
    assert torch.equal(one.labels, again.labels)


@pytest.mark.parametrize("killed_at", [2, 5])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    whole, resumed, _ = killed_and_resumed(tmp_path, monkeypatch, TINY, killed_at)
    assert resumed["step"] == whole["step"] == 3
    for name, weight in whole["masters"].items():
        assert torch.equal(weight, resumed["masters"][name]), name


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    train(tmp_path, replace(TINY, processes=2))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in log] == ["tower", "decoder"]
    assert not distributed.is_initialized()
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["step"] == 3


def test_weights_can_be_written_from_the_checkpoints_of_a_run(tmp_path: Path) -> None:
    folder = train(tmp_path, TINY)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert (export_checkpoint(tmp_path) / "model.safetensors").read_bytes() == whole


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"seed": 9}))
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, TINY)
    with pytest.raises(ValueError, match="either hours or steps"):
        train(tmp_path, Recipe())


def test_the_written_model_loads_as_any_other(tmp_path: Path) -> None:
    folder = train(tmp_path, TINY)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=scene(0).image, text=prompt("is there a star?"), return_tensors="pt")
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.config.image_token_id == processor.image_token_id
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_the_second_phase_leaves_the_tower_alone(tiny: LlavaForConditionalGeneration) -> None:
    before = tiny.model.vision_tower.embeddings.patch_embedding.weight.clone()
    phase = DecoderPhase(LLAVA, tiny, seed=0, batch=2, dtype=torch.float32)
    draw, arguments = phase.order(0, 0, 0.0)
    loss, _ = phase.loss(draw(*arguments), 0.0)
    phase.optimiser.step(loss, 1.0)
    assert torch.equal(before, tiny.model.vision_tower.embeddings.patch_embedding.weight)


# Numbers that are not finite, kills and other runs.


def spoiling(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the optimiser's step of that number spoil one weight."""
    step, calls = Optimiser.step, []

    def spoil(self: Optimiser, loss: torch.Tensor, rate: float) -> None:
        step(self, loss, rate)
        calls.append(rate)
        if len(calls) == at:
            self._masters[0].data.flatten()[0] = float("nan")
            self.refresh()

    monkeypatch.setattr(Optimiser, "step", spoil)


def test_weights_that_are_not_finite_never_come_into_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiling(3, monkeypatch)
    with pytest.raises(TrainingError, match=r"tower stopped in step 3, because 1 tensors of weights.*tower\.pt holds the last"):
        train(tmp_path, TINY)
    state = torch.load(tmp_path / "tower.pt", weights_only=True)
    assert state["step"] == 2
    assert all(weight.isfinite().all() for weight in state["masters"].values())
    assert not (tmp_path / "weights").exists()
    state["masters"][next(iter(state["masters"]))].fill_(float("inf"))
    torch.save(state, tmp_path / "tower.pt")
    with pytest.raises(TrainingError, match=r"tower\.pt holds weights that are not finite"):
        train(tmp_path, TINY)


def test_a_loss_that_is_not_finite_ends_the_run_and_the_card_does_not_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiling(1, monkeypatch)
    with pytest.raises(TrainingError, match=r"stopped in step 2, because the loss is nan; there is no checkpoint of it"):
        train(tmp_path, replace(TINY, checkpoint_every=1e9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.json"]


def test_processes_that_train_together_all_end_where_one_of_them_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiling(2, monkeypatch)
    with pytest.raises(TrainingError, match="stopped in step 2"):
        train(tmp_path, replace(TINY, processes=2))
    assert not distributed.is_initialized()
    assert not multiprocessing.active_children()


def test_weights_that_are_not_finite_are_nothing_to_begin_from(tmp_path: Path, tiny: LlavaForConditionalGeneration) -> None:
    tiny.lm_head.weight.data[0, 0] = float("nan")
    export(LLAVA, tiny, tmp_path / "weights")
    with pytest.raises(ValueError, match="values that are not finite"):
        carry_over(LLAVA, tmp_path / "weights", tiny)


def test_what_a_killed_run_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    train(tmp_path, TINY)
    (tmp_path / ".tower.pt.999.part").write_text("half")
    (tmp_path / ".weights.0123abcd-999-0.part").mkdir()
    (tmp_path / ".weights.0123abcd-999-0.part" / "model.safetensors").write_text("half")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"phase": "tow')
    (tmp_path / "decoder.pt").unlink()
    train(tmp_path, TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.pt", "log.jsonl", "recipe.json", "tower.pt", "weights"]
    assert [json.loads(line)["phase"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ["tower", "decoder", "decoder"]


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with claimed_folder(tmp_path), pytest.raises(BusyError, match="another process is writing"):
        train(tmp_path, TINY)
