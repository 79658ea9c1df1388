"""The scenes of the embedded model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sklearn")

from foveate.demo import backgrounds
from foveate.demo.drawing import WORDS
from foveate.demo.glyphs import ALPHABET, glyph
from foveate.demo.labels import CLASSES, GRID, IGNORED, patch_labels
from foveate.demo.questions import FAMILIES
from foveate.demo.scenes import fingerprint, scene

FINGERPRINT = "11873217811da3134b75be378fb0a9b959c075eae9ab6ba0ac9574d2b2d59cbc"


def test_the_held_out_scenes_are_the_published_ones() -> None:
    assert fingerprint("held_out", range(20)) == FINGERPRINT


def test_a_seed_always_gives_the_same_scene() -> None:
    one, again, other = scene(5), scene(5), scene(6)
    assert one.image.tobytes() == again.image.tobytes()
    assert one.questions == again.questions
    assert one.image.tobytes() != other.image.tobytes()


def test_training_and_held_out_scenes_share_no_photograph_and_no_digit() -> None:
    train, held_out = backgrounds.digits("train")[0], backgrounds.digits("held_out")[0]
    seen = {ink.tobytes() for ink in train}
    assert len(train) + len(held_out) == 1797
    assert not any(ink.tobytes() in seen for ink in held_out)
    for part, columns in (("train", 420), ("held_out", 220)):
        views = backgrounds.photographs(part)  # type: ignore[arg-type]
        assert {round(view.shape[1] / view.shape[0] * 427) for view in views} <= {columns - 1, columns, columns + 1}


def test_the_same_seed_is_another_scene_in_the_other_split() -> None:
    assert scene(5, "train").image.tobytes() != scene(5, "held_out").image.tobytes()


def test_questions_cover_all_families_and_yes_is_as_frequent_as_no() -> None:
    asked = [question for seed in range(150) for question in scene(seed, "held_out").questions]
    assert {question.family for question in asked} == set(FAMILIES)
    answers = Counter(question.answer for question in asked if question.family == "presence")
    assert 0.35 < answers["yes"] / answers.total() < 0.65


def test_an_answer_that_something_is_there_comes_with_the_patches_that_show_it() -> None:
    for seed in range(30):
        for question in scene(seed, "held_out").questions:
            nothing = (question.family, question.answer) in {("presence", "no"), ("count", "0")}
            assert question.relevant.shape == (GRID, GRID)
            assert question.relevant.any() != nothing, question


def test_what_must_be_read_is_small() -> None:
    shares = [question.relevant.mean() for seed in range(40) for question in scene(seed).questions if question.family in ("word", "number")]
    assert shares
    assert max(shares) < 0.04


def test_bad_seeds_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="validation"):
        scene(0, "validation")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1"):
        scene(-1)


def test_every_glyph_is_different_and_others_are_refused() -> None:
    assert len({glyph(character).tobytes() for character in ALPHABET}) == 36
    for wrong in ("a", "", "AB"):
        with pytest.raises(ValueError, match="glyph"):
            glyph(wrong)


def test_sign_words_are_spelled_with_the_alphabet_and_have_three_or_four_letters() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert all(3 <= len(word) <= 4 and set(word) <= set(ALPHABET) for word in WORDS)


def test_patch_labels_spell_a_sign_from_left_to_right() -> None:
    items = next(items for seed in range(9) for items in [scene(seed).items] if items[0].text.isalpha())
    labels, centres = patch_labels(items[:1], GRID)
    columns = {name: labels[:, place] for place, name in enumerate(CLASSES)}
    on_sign = columns["kind"] == CLASSES["kind"] - 2
    spelled = {int(i): ALPHABET[c] for i, c in zip(columns["index"][on_sign], columns["character"][on_sign], strict=True)}
    assert "".join(spelled[index] for index in sorted(spelled)) == items[0].text
    assert (columns["character"][~on_sign] == IGNORED).all()
    assert np.isnan(centres[~on_sign]).all()
    assert not np.isnan(centres[on_sign]).any()
