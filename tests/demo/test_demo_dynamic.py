"""The recipe's variant with dynamic resolution, on a tiny one: pictures of any size, 2 by 2 patches a token, M-RoPE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_training import killed_and_resumed
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen2VLForConditionalGeneration

pytest.importorskip("sklearn")

from foveate.demo.model.language import IMAGE_TOKEN, prompt
from foveate.demo.model.processing import VIDEO, VISION_END, VISION_START, DynamicProcessor
from foveate.demo.model.shapes import EMBEDDED_SHAPES, shape_of
from foveate.demo.scenes import scene
from foveate.demo.scenes.labels import CLASSES, GRID, IGNORED, PATCH
from foveate.demo.scenes.questions import FAMILIES
from foveate.measure.scenes import attention_recall, evaluate, samples
from foveate.recipe.decoder import DESCRIPTION_LESSON, DecoderPhase, Lesson, ProjectorAndDecoder, draw_lesson
from foveate.recipe.tower import TowerWithHeads, draw_windows, normalise
from foveate.recipe.train import Recipe, carry_over, export_checkpoint, train

SHAPE = EMBEDDED_SHAPES["qwen2-vl"]
TINY = Recipe(shape=SHAPE.name, steps=(3, 3), batch=4, hidden=96, tower_layers=2, layers=5, bfloat16=False, checkpoint_every=0)
SIZES = {"hidden": 96, "tower_layers": 2, "layers": 5, "seed": 0}


@pytest.fixture
def tiny() -> Qwen2VLForConditionalGeneration:
    model = SHAPE.build(**SIZES).eval()
    for layer in model.model.language_model.layers:  # whose biases start at zero, where nothing could go wrong with them
        torch.nn.init.normal_(layer.self_attn.q_proj.bias, std=0.3)
        torch.nn.init.normal_(layer.self_attn.k_proj.bias, std=0.3)
    return model


@pytest.fixture(scope="module")
def processor() -> DynamicProcessor:
    return SHAPE.processor()


def picture(lesson: Lesson, rows: int, columns: int) -> Image.Image:
    """The first picture of a lesson."""
    pixels = lesson.patches[0].view(rows, columns, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2)
    return Image.fromarray(pixels.reshape(rows * PATCH, columns * PATCH, 3).numpy())


@torch.no_grad()
@pytest.mark.parametrize("grid", [(GRID, GRID), (10, 14), (14, 8)])
def test_a_packed_question_about_a_picture_of_any_size_is_answered_exactly_as_alone(
    tiny: Qwen2VLForConditionalGeneration, processor: DynamicProcessor, grid: tuple[int, int]
) -> None:
    lesson = draw_lesson((1,), "train", 1, grid, anywhere=False)
    seen = SHAPE.states(SHAPE.tower(tiny), normalise(lesson.patches, torch.float32), lesson.positions)
    packed, _ = ProjectorAndDecoder(SHAPE, tiny)(seen, lesson)
    encoded = processor(images=picture(lesson, *grid), text=prompt("?"), return_tensors="pt")
    assert encoded["image_grid_thw"].tolist() == [[1, *grid]]
    before = encoded["input_ids"][0]
    before = before[: int((before == SHAPE.vocabulary()[VISION_END]).nonzero()) + 1]
    for slot in range(3):
        length = int((lesson.tokens[0, slot] != 0).sum())
        ids = torch.cat([before, lesson.tokens[0, slot, :length]])[None]
        kinds = (ids == processor.image_token_id).int()
        pixels = {name: encoded[name] for name in ("pixel_values", "image_grid_thw")}
        alone = tiny(input_ids=ids, mm_token_type_ids=kinds, **pixels).logits[0, len(before) :]
        rows = lesson.rows[0, slot][lesson.wanted[0, slot] != IGNORED]
        torch.testing.assert_close(packed[0, slot, : len(rows)], alone[rows], atol=1e-4, rtol=1e-4)


def test_a_visual_token_is_relevant_when_one_of_its_patches_is() -> None:
    patches = torch.zeros(6, 8, dtype=torch.bool)
    patches[3, 5] = patches[4, 0] = True
    tokens = SHAPE.by_token(patches.flatten()[None], 8).view(3, 4)
    assert tokens.nonzero().tolist() == [[1, 2], [2, 0]]


def test_what_is_read_from_a_visual_token_lies_at_its_patches() -> None:
    read = torch.arange(12 * 4.0).view(1, 12, 4)
    laid = SHAPE.by_patch(read, 8).view(6, 8)
    assert laid[:2, :4].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert laid[2, 0] == 16


@torch.no_grad()
def test_the_heads_read_each_patch_from_the_token_that_holds_it(tiny: Qwen2VLForConditionalGeneration) -> None:
    taught = TowerWithHeads(SHAPE, SHAPE.tower(tiny)).eval()
    windows = draw_windows((3,), "train", 1, (8, 12), anywhere=False)
    before = taught(windows).view(8, 12, -1)
    assert before.shape[-1] == sum(CLASSES.values()) + 2
    taught.heads.out.bias.view(4, -1)[1] += 1  # the upper right patch of every token
    changed = (taught(windows).view(8, 12, -1) != before).any(-1)
    assert changed[::2, 1::2].all()
    assert changed.sum() == changed[::2, 1::2].numel()


def test_the_centres_of_small_pictures_are_measured_from_the_patches_that_see_the_things() -> None:
    own, placed = (draw_windows((4,), "train", 2, GRID, anywhere=anywhere) for anywhere in (False, True))
    assert own.positions.equal(placed.positions)
    places = torch.stack([own.positions % GRID, own.positions // GRID], dim=-1) + 0.5
    known = ~own.centres.isnan()
    own_drawn = own.centres[known] * GRID
    assert own_drawn.abs().max() < 5  # a sign of six characters is 6.3 patches wide
    assert ((own.centres * GRID + places)[known] < GRID).all()


def test_left_and_right_are_those_of_the_picture_itself() -> None:
    found = 0
    for seed in range(20):
        lesson = draw_lesson((5, seed), "train", 4, (10, 14), anywhere=False)
        words = {index: token for token, index in SHAPE.vocabulary().items()}
        for image, slot in (lesson.families == FAMILIES.index("side")).nonzero().tolist():
            wanted = [words[index] for index in lesson.wanted[image, slot].tolist() if index != IGNORED]
            columns = lesson.whole[image, slot].view(10, 14).any(0).nonzero().flatten().float()
            if {"left", "right"} & set(wanted):
                assert ("left" in wanted) == bool(columns.mean() < 6.5), wanted
                found += 1
    assert found > 5


def test_pictures_come_in_many_sizes_and_are_not_all_square(tiny: Qwen2VLForConditionalGeneration) -> None:
    phase = DecoderPhase(SHAPE, tiny, seed=0, batch=2, dtype=torch.float32)
    grids = {phase.order(step, 0, 0.3)[1][3] for step in range(60)}
    assert any(rows != columns for rows, columns in grids)
    assert (GRID, GRID) in grids
    assert all(rows % SHAPE.merged == columns % SHAPE.merged == 0 for rows, columns in grids)


def test_the_second_phase_teaches_the_merger_and_leaves_the_rest_of_the_tower_alone(tiny: Qwen2VLForConditionalGeneration) -> None:
    before = {name: weight.clone() for name, weight in tiny.model.visual.named_parameters()}
    phase = DecoderPhase(SHAPE, tiny, seed=0, batch=2, dtype=torch.float32)
    draw, arguments = phase.order(0, 0, 0.0)
    loss, _ = phase.loss(draw(*arguments), 0.0)
    phase.optimiser.step(loss, 1.0)
    for name, weight in tiny.model.visual.named_parameters():
        assert torch.equal(before[name], weight) != name.startswith("merger."), name


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("llava"), replace(TINY, shape="llava"))


@torch.no_grad()
def test_weights_of_a_llava_are_carried_over(llava: Path) -> None:
    tiny = SHAPE.build(**SIZES).eval()
    fresh = tiny.get_input_embeddings().weight.clone()
    carry_over(SHAPE, llava, tiny)
    source = AutoModelForImageTextToText.from_pretrained(llava, dtype=torch.float32).eval()
    words = torch.tensor([[1, 90, 95, 97, 10]])
    torch.testing.assert_close(tiny(words).logits[..., :168], source(words).logits, atol=1e-4, rtol=1e-4)
    new = [SHAPE.vocabulary()[word] for word in (VISION_START, VISION_END, VIDEO)]
    assert torch.equal(tiny.get_input_embeddings().weight[new], fresh[new])
    block, earlier = tiny.model.visual.blocks[1], source.model.vision_tower.encoder.layers[1]
    states = torch.randn(9, 96)
    queries, keys, values = block.attn.qkv(block.norm1(states)).chunk(3, dim=-1)
    for ours, theirs in ((queries, earlier.self_attn.q_proj), (keys, earlier.self_attn.k_proj), (values, earlier.self_attn.v_proj)):
        normed = torch.nn.functional.layer_norm(states, (96,), earlier.layer_norm1.weight, earlier.layer_norm1.bias, 1e-6)
        torch.testing.assert_close(ours, theirs(normed))
    torch.testing.assert_close(block.mlp(states), earlier.mlp(states))
    pixels = torch.randn(2, 3, PATCH, PATCH)
    twice = pixels[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, -1)
    torch.testing.assert_close(
        tiny.model.visual.patch_embed(twice), source.model.vision_tower.embeddings.patch_embedding(pixels).flatten(1), atol=1e-5, rtol=1e-4
    )
    assert not torch.equal(tiny.model.visual.merger.mlp[0].weight[:96, :96], tiny.model.visual.merger.mlp[0].weight[96:192, 96:192])


def test_weights_of_its_own_are_not_carried_over_to_a_llava(tmp_path: Path) -> None:
    folder = train(tmp_path, TINY)
    with pytest.raises(ValueError, match="another shape"):
        carry_over(EMBEDDED_SHAPES["llava"], folder, EMBEDDED_SHAPES["llava"].build(**SIZES))
    again = SHAPE.build(**SIZES)
    carry_over(SHAPE, folder, again)
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in saved.state_dict().items())


@pytest.mark.parametrize("killed_at", [2, 5])
def test_a_killed_run_of_the_variant_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    whole, resumed, folder = killed_and_resumed(tmp_path, monkeypatch, TINY, killed_at)
    for name, weight in whole["masters"].items():
        assert torch.equal(weight, resumed["masters"][name]), name
    written = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert (export_checkpoint(folder.parent) / "model.safetensors").read_bytes() == written


def test_the_written_variant_answers_through_stock_generate(tmp_path: Path) -> None:
    folder = train(tmp_path, TINY)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    assert shape_of(model) is shape_of(folder) is SHAPE
    asked = samples(1)[:3]
    answers = evaluate(model, SHAPE.processor(folder), asked, batch_size=3)
    assert [answer.question for answer in answers] == [sample.question.text for sample in asked]
    assert len(evaluate(model, SHAPE.processor(folder), asked, batch_size=3, without_image=True)) == 3
    assert 0 <= attention_recall(model, SHAPE.processor(folder), asked)["all"] <= 1


def test_the_processor_makes_room_for_every_picture_by_its_size(tmp_path: Path, processor: DynamicProcessor) -> None:
    large, small = scene(0).image, scene(0).image.crop((0, 0, 200, 140))
    texts = [prompt("is there a star?"), prompt("what does the sign say?")]
    encoded = processor(images=[large, small], text=texts, padding=True, return_tensors="pt")
    assert encoded["image_grid_thw"].tolist() == [[1, 24, 24], [1, 10, 14]]
    kinds = encoded["mm_token_type_ids"]
    assert kinds.sum(1).tolist() == [144, 35]
    assert torch.equal(kinds == 1, encoded["input_ids"] == SHAPE.vocabulary()[IMAGE_TOKEN])
    first = int(kinds[1].argmax())
    around = encoded["input_ids"][1, [first - 1, first + 35]].tolist()
    assert around == [SHAPE.vocabulary()[VISION_START], SHAPE.vocabulary()[VISION_END]]
    processor.save_pretrained(tmp_path)
    again = SHAPE.processor(tmp_path)(images=[large, small], text=texts, padding=True, return_tensors="pt")
    assert all(torch.equal(value, again[name]) for name, value in encoded.items())
    with pytest.raises(ValueError, match="1 pictures for 2"):
        processor(images=large, text=texts)
    with pytest.raises(ValueError, match="frames"):
        processor(images=large, text=texts[0], videos=[large])


def test_the_chat_template_and_the_prompt_say_the_same(processor: DynamicProcessor) -> None:
    content = [{"type": "image", "image": scene(0).image}, {"type": "text", "text": "is there a star?"}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    written = processor(images=scene(0).image, text=prompt("is there a star?"), return_tensors="pt")
    assert torch.equal(chat["input_ids"], written["input_ids"])
    assert torch.equal(chat["pixel_values"], written["pixel_values"])


def test_descriptions_of_small_pictures_name_what_is_there() -> None:
    lesson = draw_lesson((6,), "train", 4, (14, 10), DESCRIPTION_LESSON, anywhere=False)
    assert (lesson.families == FAMILIES.index("description")).all()
    assert lesson.whole.shape[-1] == 140
