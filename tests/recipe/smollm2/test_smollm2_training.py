"""Lessons, the packed decoder, both phases and a whole run, with a small decoder."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("sklearn")

from safetensors.torch import load_file
from small_luggage import config, luggage, tokenizer

from foveate.demo.scenes.labels import IGNORED
from foveate.demo.scenes.questions import AskedQuestion, ask
from foveate.errors import TrainingError
from foveate.recipe.decoder import draw_items
from foveate.recipe.smollm2 import adapt, judge, lessons, train
from foveate.recipe.smollm2.adapt import SMALL_PICTURES, WHOLE_SCENES, Anchor, Clock, Guard, Learner, Texts, rate, row_weights
from foveate.recipe.smollm2.align import Seen, Targets, fit, joined, thinned
from foveate.recipe.smollm2.artefact import TrainedAdapters, read_adapters
from foveate.recipe.smollm2.build import seeing
from foveate.recipe.smollm2.drawers import Drawers
from foveate.recipe.smollm2.language import BEFORE, BETWEEN, IMAGE, Words, build_processor
from foveate.recipe.smollm2.lessons import LAYOUTS, PackedLesson, draw_labelled, draw_lesson, in_note_form, lesson_of
from foveate.recipe.smollm2.model import PARTS, Kept, Projector, Seer
from foveate.recipe.smollm2.train import SightPlan, SightRun

pytestmark = pytest.mark.one_version

WORDS = Words(tokenizer())


@pytest.fixture(autouse=True)
def known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lessons._words, "words", WORDS)
    monkeypatch.setattr(train, "decoder_config", config)


def seer(rank: int = 4, spread: float = 0.0, *, half: bool = False) -> Seer:
    run = SightRun.__new__(SightRun)
    run.plan, run.luggage, run.config, run.words, run.device = plan(rank=rank, half=half), luggage(), config(), WORDS, torch.device("cpu")
    made = run._seer()
    for weight in made.up.values():
        weight.data.normal_(std=spread)
    return made


def plan(**changed: object) -> SightPlan:
    usual = {
        "seconds": 8.0,
        "device": "cpu",
        "workers": 0,
        "tokens": 700,
        "align": 0.2,
        "labelled": 8,
        "judging": 0.0,
        "scenes": 2,
        "watched": 2,
        "every": 1.0,
        "log": 0.5,
        "rank": 4,
        "seed": 0,
        "half": False,
        "whole": True,
    }
    return SightPlan(**{**usual, **changed})  # type: ignore[arg-type]


def texts() -> Texts:
    return Texts(luggage().texts["train"], WORDS, torch.device("cpu"), 700)


def lesson(side: int, batch: int = 1, seed: int = 3) -> PackedLesson:
    return lesson_of(draw_lesson((seed,), "held_out", batch, side))


@pytest.mark.parametrize("side", LAYOUTS)
def test_a_strip_holds_whole_questions_with_their_answers(side: int) -> None:
    drawn = lesson(side, 3)
    for image in range(3):
        asked = int((drawn.families[image] >= 0).sum())
        assert asked > 1
        for question in range(asked):
            own = (drawn.segments[image] == question).nonzero()[:, 0]
            assert drawn.offsets[image, own].tolist() == list(range(len(own)))
            rows = (drawn.asked[image] == question) & (drawn.wanted[image] != IGNORED)
            wanted, places = drawn.wanted[image, rows].tolist(), drawn.rows[image, rows].tolist()
            assert drawn.tokens[image, own[-len(wanted) + 1 :] if len(wanted) > 1 else own[:0]].tolist() == wanted[:-1]
            assert places == list(range(int(own[-1]) - len(wanted) + 1, int(own[-1]) + 1))
            assert wanted[-1] == WORDS.ids("<|im_end|>")[0]


def test_notes_fill_a_strip_with_more_facts_and_the_same_answers() -> None:
    usual, notes = (lesson_of(draw_lesson((5,), "train", 8, 12, 12, brief)) for brief in (False, True))
    assert (notes.families >= 0).sum() > 1.5 * (usual.families >= 0).sum()
    end = WORDS.ids("<|im_end|>")[0]
    for image in range(8):
        texts = set()
        for question in range(int((notes.families[image] >= 0).sum())):
            rows = (notes.asked[image] == question) & (notes.wanted[image] != IGNORED)
            wanted = notes.wanted[image, rows].tolist()
            before = notes.tokens[image, notes.segments[image] == question].tolist()
            text = Tokenizer.from_str(tokenizer()).decode(before, skip_special_tokens=False)
            assert text not in texts
            texts.add(text)
            assert (wanted[-1] == end) == ("assistant" in text), "a chat ends its answer, a note does not"


@pytest.mark.parametrize(
    ("family", "text", "note"),
    [
        ("presence", "does the picture show an orange object?", "orange object\n"),
        ("colour", "the star: what colour is it?", "star colour\n"),
        ("shape", "which shape does the red object have?", "red object shape\n"),
        ("size", "is the red star large or small?", "red star size\n"),
        ("count", "count the red objects.", "number of red objects\n"),
        ("count", "how many objects do you see?", "number of objects\n"),
        ("side", "is the red star at the bottom or at the top?", "red star bottom or top\n"),
        ("side", "in which corner is the red star?", "red star corner\n"),
        ("relation", "is the red star left or right of the blue ring?", "red star left or right of blue ring\n"),
        ("word", "what does the sign say?", None),
    ],
)
def test_a_note_names_what_its_question_asks_about(family: str, text: str, note: str | None) -> None:
    assert in_note_form(AskedQuestion(text, "", family, ())) == note


def test_every_question_of_a_family_with_notes_has_one() -> None:
    noted = {"presence", "colour", "shape", "size", "count", "side", "relation"}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for question in ask(rng, draw_items(rng, "train", 12), (84.0, 84.0), repeats=8):
            assert (in_note_form(question) is not None) == (question.family in noted), question.text


def test_rows_of_long_answers_weigh_less_and_padding_nothing() -> None:
    drawn = lesson(12, 4)
    weights = row_weights(drawn)
    assert (weights[drawn.wanted == IGNORED] == 0).all()
    for question in range(int((drawn.families[2] >= 0).sum())):
        rows = (drawn.asked[2] == question) & (drawn.wanted[2] != IGNORED)
        torch.testing.assert_close(weights[2, rows].sum(), rows.sum().float().sqrt())


@pytest.mark.parametrize("side", [12, 24])
def test_packed_questions_get_the_logits_of_the_exported_model(side: int, tmp_path: Path) -> None:
    made, drawn = seer(spread=0.1), lesson(side)
    exact = {name: weight.detach().to(torch.bfloat16).float() for name, weight in made.trained().items()}
    made.load_state_dict(exact, strict=False)
    TrainedAdapters(exact, side, 0).write(tmp_path / "adapters.safetensors")
    stock = seeing(read_adapters(tmp_path / "adapters.safetensors"), luggage(), config(), side)
    with torch.no_grad():
        packed = made(drawn, made.projector(made.seen(drawn.pixels, drawn.positions)))
    processor = build_processor(tokenizer(), side)
    for question in range(int((drawn.families[0] >= 0).sum())):
        ids = drawn.tokens[0][drawn.segments[0] == question]
        text = f"{BEFORE}{IMAGE}{BETWEEN}" + processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        inputs = processor(images=Image.fromarray(drawn.pixels[0].numpy()), text=text, return_tensors="pt")
        assert inputs.input_ids[0, -len(ids) :].equal(ids)
        with torch.no_grad():
            alone = stock(**inputs).logits[0]
        rows = ((drawn.asked[0] == question) & (drawn.wanted[0] != IGNORED)).nonzero()[:, 0]
        columns = inputs.input_ids.shape[1] - len(ids) + drawn.offsets[0, drawn.rows[0, rows]]
        assert packed[0, rows].abs().max() > 0.5
        torch.testing.assert_close(packed[0, rows], alone[columns], atol=2e-4, rtol=0)


def test_windows_keep_the_positions_of_their_scene() -> None:
    drawn = lesson(8, 4)
    assert drawn.places.equal(drawn.positions)
    assert len({int(first) for first in drawn.places[:, 0]}) > 1
    assert drawn.counted.tolist() == [576] * 4
    small = lesson_of(draw_lesson((3,), "held_out", 4, 8, 12))
    lines, columns = small.places // 12, small.places % 12
    assert small.positions.equal((lines + 6) * 24 + columns + 6)
    assert columns.max() - columns.min() >= 8
    assert small.counted.tolist() == [144] * 4


@pytest.mark.parametrize("layer", [0, 1])
def test_dropping_nothing_changes_nothing_and_dropping_hides(layer: int) -> None:
    made, drawn = seer(spread=0.1), lesson(12, 2)
    with torch.no_grad():
        visual = made.projector(made.seen(drawn.pixels, drawn.positions))
        full = made(drawn, visual)
        every = torch.arange(144).expand(2, -1)
        torch.testing.assert_close(made(drawn, visual, Kept(layer, every)), full)
        some = torch.arange(0, 144, 3).expand(2, -1)
        cut, other = made(drawn, visual, Kept(layer, some)), visual.clone()
        other[:, 1::3] += 1
        again = made(drawn, other, Kept(layer, some))
    assert (cut - full).abs().max() > 1e-3
    assert ((again - cut).abs().max() < 1e-4) == (layer == 0)


def test_words_can_be_read_from_aligned_visual_tokens() -> None:
    torch.manual_seed(0)
    made = seer()
    parts = []
    for index, side in enumerate((8, 12, 8, 12, 8, 12)):
        arrays = draw_labelled((5, index), 24, side)
        seen = made.seen(torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["positions"]))
        parts.append(thinned(seen, torch.from_numpy(arrays["labels"])))
    patches = joined(parts)
    targets = Targets(0.1 * torch.randn(700, 576), WORDS, patches)
    projector = Projector(192, 576)
    found = fit(projector, targets, patches, 1.0, batch=512)
    assert found["steps"] > 1
    assert found["explained"] > 0.5
    assert min(found["colour"], found["kind"], found["column"]) > 0.8
    background = Seen(patches.states[patches.labels[:, 0] == 0][:500], patches.labels[patches.labels[:, 0] == 0][:500])
    assert judge.variety(projector(background.states))["directions"] > 5


def test_the_loss_falls_by_training() -> None:
    quick = replace(WHOLE_SCENES, warm_up=5, adapter_rate=1e-2)  # a narrow decoder of random weights learns slowly
    torch.manual_seed(0)
    learner = Learner(seer(rank=16), texts(), quick)
    drawn = [lesson(8, 4, seed) for seed in range(3)]
    for step in range(130):
        learner.learn(drawn[step % 3], 0.1)
        if step == 2:
            before = learner.ledger.figures()
        if step == 126:
            learner.ledger.figures()
    after = learner.ledger.figures()
    assert after["loss"] < before["loss"] - 1
    assert set(after["losses"]) == set(before["losses"])


@pytest.mark.parametrize("half", [False, True])
def test_adapters_beside_frozen_weights_equal_merged_ones(half: bool) -> None:
    found = []
    for merges in (True, False):
        torch.manual_seed(0)
        learner = Learner(seer(half=half), texts(), SMALL_PICTURES)
        learner.seer.merges = merges
        for weight in learner.seer.up.values():
            weight.data.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        drawn = lesson(8, 2)
        with torch.no_grad():
            logits = learner.seer(drawn, learner.seer.projector(learner.seer.seen(drawn.pixels, drawn.positions)))
        learner.step = adapt.TEXT_EVERY - 1
        learner._gradients(drawn)
        assert not any(tensor.requires_grad for tensor in learner.seer.buffers())
        assert not any(weight.requires_grad for weight in learner.seer.tower.parameters())
        found.append((logits.float(), {name: weight.grad for name, weight in learner.seer.trained().items()}))
    (logits, gradients), (others, again) = found
    close = 0.1 if half else 1e-4
    assert (logits - others).norm() < close * logits.norm()
    for name, gradient in gradients.items():
        assert gradient.norm() > 0
        assert (gradient - again[name]).norm() < close * gradient.norm(), name


class Shapes(TorchDispatchMode):
    """Collects the shapes of all tensors that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if not any(result.alias_info for result in function._schema.returns):  # a view computes nothing
            self.seen |= {tuple(out.shape) for out in (found if isinstance(found, tuple) else (found,)) if isinstance(out, torch.Tensor)}
        return found


@pytest.mark.parametrize("merges", [False, True])
def test_only_merging_computes_gradients_as_large_as_frozen_weights(merges: bool) -> None:
    made, drawn = seer(spread=0.1), lesson(8)
    made.merges = merges
    loss = made(drawn, made.projector(made.seen(drawn.pixels, drawn.positions)).detach()).sum()
    with Shapes() as shapes:
        loss.backward()
    frozen = {tuple(getattr(made, f"base_{part}").shape) for part in PARTS}
    assert len(shapes.seen) > 10
    assert bool(shapes.seen & (frozen | {shape[1:] for shape in frozen} | {shape[:0:-1] for shape in frozen})) == merges


def test_trimmed_lessons_have_the_same_gradients() -> None:
    found = []
    for trims in (False, True):
        learner, drawn = Learner(seer(spread=0.1), None, SMALL_PICTURES), lesson(8, 2)
        short = drawn.trimmed()
        assert short.tokens.shape[1] < drawn.tokens.shape[1] or short.rows.shape[1] < drawn.rows.shape[1]
        learner._gradients(short if trims else drawn)
        found.append({name: weight.grad for name, weight in learner.seer.trained().items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_a_projector_that_rests_needs_no_gradient() -> None:
    learner, drawn = Learner(seer(spread=0.1), None, SMALL_PICTURES), lesson(8)
    learner._gradients(drawn, resting=True)
    assert {name for name, weight in learner.seer.trained().items() if weight.grad is None} == {
        name for name in learner.seer.trained() if name.startswith("projector")
    }


def test_a_projector_that_rests_does_not_move() -> None:
    learner = Learner(seer(spread=0.1), None, replace(WHOLE_SCENES, rests=0.3))
    moved = []
    for progress in (0.1, 0.5):
        before = {name: weight.detach().clone() for name, weight in learner.seer.trained().items()}
        learner.learn(lesson(8, 2), progress)
        moved.append({name for name, weight in learner.seer.trained().items() if not weight.equal(before[name])})
    assert moved[1] - moved[0] == {"projector.linear_2.weight"}


def test_a_projector_learns_without_moving_the_mean_of_its_tokens() -> None:
    drawn = lesson(8, 2)
    moved = []
    for anchored in (True, False):
        torch.manual_seed(0)
        learner = Learner(seer(spread=0.1), None, replace(WHOLE_SCENES, warm_up=1))
        seen = learner.seer.seen(drawn.pixels, drawn.positions)
        learner.anchor = Anchor(learner.seer.projector, seen) if anchored else None
        with torch.no_grad():
            before = learner.seer.projector(seen).flatten(0, 1)
            for _ in range(4):
                with torch.enable_grad():
                    learner.learn(drawn, 0.1)
            after = learner.seer.projector(seen).flatten(0, 1)
        assert (after - before).abs().max() > 1e-3
        moved.append((after.mean(0) - before.mean(0)).norm().item())
    assert moved[0] < 1e-5 < 1e-3 < moved[1]


def test_half_precision_gives_nearly_the_same_gradients() -> None:
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        learner = Learner(seer(half=half), texts(), WHOLE_SCENES)
        for weight in learner.seer.up.values():
            weight.data.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        learner.step = adapt.TEXT_EVERY - 1
        learner._gradients(lesson(8, 2))
        trained = learner.seer.trained()
        assert all(weight.dtype == torch.float32 for weight in trained.values())
        found.append(torch.cat([weight.grad.flatten() for weight in trained.values() if weight.grad is not None]))
        judged = judge.judge(learner.seer, [lesson(24, 2)])
        assert judged["questions"]["all"] > 4
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()


def test_a_lesson_in_pieces_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for pieces in (1, 2):
        learner = Learner(seer(spread=0.1), None, WHOLE_SCENES)
        learner.pieces = pieces
        learner._gradients(lesson(8, 4))
        found.append({name: weight.grad for name, weight in learner.seer.trained().items()})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 18
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-3)


def test_too_little_memory_halves_the_pieces_until_a_lesson_fits() -> None:
    learner = Learner(seer(), None, WHOLE_SCENES)
    whole = learner._gradients

    def scarce(given: PackedLesson, *, resting: bool) -> None:
        if learner.pieces < 4:
            raise torch.cuda.OutOfMemoryError("none left")
        whole(given, resting=resting)

    learner._gradients = scarce  # type: ignore[method-assign]
    learner.learn(lesson(8, 4), 0.5)
    assert (learner.pieces, learner.step) == (4, 1)


def test_a_jump_of_the_loss_brings_the_last_good_weights_back() -> None:
    learner = Learner(seer(spread=0.1), None, WHOLE_SCENES)
    guard, name = Guard(learner), "up.q"
    good = learner.seer.trained()[name].detach().clone()
    assert not guard.restored(2.0)
    learner.seer.trained()[name].data.add_(1)
    assert guard.restored(3.6)
    assert learner.seer.trained()[name].equal(good)
    assert guard.factor == learner.optimiser.param_groups[1]["base"] / WHOLE_SCENES.adapter_rate == adapt.CALMER
    assert guard.restored(float("nan"))


def test_rates_rise_and_fall_and_sizes_grow_by_the_clock() -> None:
    assert rate(0, 0.0, 100) == pytest.approx(0.01)
    assert rate(1000, 0.5, 100) == pytest.approx(0.505)
    assert rate(1000, 1.0, 100) == pytest.approx(adapt.LAST_RATE)
    sizes = []
    for before in (0.0, 99.0):
        coming = adapt.orders(Clock(100.0, before), WHOLE_SCENES, 0, 0, 2000, 25)
        sizes.append([next(coming)[1][3] for _ in range(30)])
    assert sizes[0].count(8) > 20
    assert 24 not in sizes[0]
    assert sizes[1].count(24) > 20
    assert 8 not in sizes[1]


def test_another_process_draws_the_same(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    np.savez(tmp_path / "pictures.npz", **luggage().pictures)
    drawers = Drawers(1, tmp_path / "tokenizer.json", tmp_path / "pictures.npz")
    orders = [(draw_lesson, ((seed,), "train", 1, 8)) for seed in range(4)]
    drawn = list(drawers.stream(iter(orders), ahead=2))
    drawers.close()
    for (_, arguments), found in zip(orders, drawn, strict=True):
        wanted = draw_lesson(*arguments)
        assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def die_elsewhere(parent: int) -> str:
    if os.getpid() != parent:
        os._exit(1)
    return "drawn"


def test_a_run_goes_on_alone_when_the_drawers_die(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    np.savez(tmp_path / "pictures.npz", **luggage().pictures)
    drawers = Drawers(1, tmp_path / "tokenizer.json", tmp_path / "pictures.npz")
    parent = os.getpid()
    with pytest.warns(RuntimeWarning, match="this one draws from now on"):
        assert drawers.submit((die_elsewhere, (parent,)))() == "drawn"
    assert drawers.submit((die_elsewhere, (parent,)))() == "drawn"


def test_a_run_keeps_to_its_time_and_resumes(tmp_path: Path) -> None:
    begun = time.time()
    given = SightRun(tmp_path, tmp_path / "state", luggage(), plan(seconds=15.0), begun)
    found = given.train()
    assert found["questions_seen"] > found["steps"] > 1
    assert found["seconds_adapting"] < 16
    assert set(found["scenes"]) >= {"all_tokens", "other_picture", "random_before_layer_0", "random_before_layer_2"}
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert found["texts"]["before"] == 0
    assert found["texts"]["answers"][0]["after"]
    weights = load_file(tmp_path / "adapters.safetensors")
    assert set(weights) == set(seer().trained())
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert {"ready", "aligned", "step", "held_out", "adapted", "scenes", "texts"} <= {line["what"] for line in lines}
    again = SightRun(tmp_path, tmp_path / "state", luggage(), plan(seconds=2.0), time.time()).train()
    assert again["steps"] >= found["steps"]
    assert any(json.loads(line)["what"] == "resumed" for line in (tmp_path / "curve.jsonl").read_text().splitlines())
    assert "alignment" not in again


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    run = SightRun(tmp_path, tmp_path / "state", luggage(), plan(), 0.0)
    learner = Learner(seer(), None, WHOLE_SCENES)
    learner.seer.trained()["up.q"].data[0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"1 tensors of weights, up.q first"):
        run._save(learner, Clock(1.0))
    assert not (tmp_path / "adapters.safetensors").exists()


def test_a_lesson_moves_and_splits_as_a_whole() -> None:
    drawn = lesson(8, 3)
    parts = list(drawn.to(torch.device("cpu")).pieces(2))
    assert [len(part.pixels) for part in parts] == [2, 1]
    assert all(torch.cat([getattr(part, own.name) for part in parts]).equal(getattr(drawn, own.name)) for own in fields(PackedLesson))
